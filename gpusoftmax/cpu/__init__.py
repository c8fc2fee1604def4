"""The CPU's half: threads and the summation tree, kernels in Numba and in NumPy, and the operations over them."""
