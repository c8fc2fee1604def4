"""Fits many configurations and folds together: see `sweep`."""
