"""The CPU backend: threads and the summation tree, kernels in Numba and in NumPy, and the operations that use them."""
