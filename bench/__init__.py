"""Benchmarks: `python -m bench NAME`; README.md beside this file explains them."""
