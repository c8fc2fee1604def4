"""The benchmark `throughput`."""
