"""Preconditioners of L-BFGS: approximate inverse Hessians."""
