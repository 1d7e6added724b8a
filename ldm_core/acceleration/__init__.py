"""Faster ways to the same numbers: CPU kernels, packed weights, recorded calls, CUDA graphs."""
