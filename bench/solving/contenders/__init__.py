"""Who is compared in the benchmark `solving`."""
