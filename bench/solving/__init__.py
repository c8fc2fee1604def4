"""The benchmark `solving`."""
