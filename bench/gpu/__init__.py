"""Checks of a GPU, and of the code that compilers make for it."""
