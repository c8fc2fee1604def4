"""Who is compared in the benchmark `sweeping`."""
