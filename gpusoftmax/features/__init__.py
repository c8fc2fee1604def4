"""Features: how X is stored, scaled and sampled, and in which order its rows are used."""
