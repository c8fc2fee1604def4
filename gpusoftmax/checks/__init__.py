"""Checks of what users pass. Nothing deeper in the package checks it again.

A message names the argument, the value that was found, and what to do about it. Where scikit-learn has a customary
wording for a fault, ours contains that wording, because tools match on it.
"""
