"""Many configurations and folds, fitted together: see `sweep`."""
