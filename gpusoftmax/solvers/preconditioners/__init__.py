"""Approximate inverse Hessians, by which L-BFGS measures gradients."""
