"""CUDA kernels on the CPU: the same text, built by g++ behind cuda_cpu.h. See build.py."""
