"""Kernels in Triton, whose bodies Triton compiles for the GPU. Only launches.py imports them, where there is Triton."""
