"""The CUDA backend: finding a GPU, compiling kernels, and operations that use them. Only this folder imports cupy."""
