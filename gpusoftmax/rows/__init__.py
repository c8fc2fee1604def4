"""Rows of features that stay in files: which part of which file they are, and reading them block by block."""
