"""The GPU's half: is there one, kernels found and compiled, and the operations over them. Alone imports cupy."""
