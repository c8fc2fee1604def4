"""The benchmark `sweeping`."""
