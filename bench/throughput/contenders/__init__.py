"""Who is compared in the benchmark `throughput`."""
