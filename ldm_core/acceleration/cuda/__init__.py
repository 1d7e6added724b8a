"""Layers for CUDA: torch's products, convolutions and attention, and Triton kernels for the passes over memory between.

Kernels that only move memory take a third of a network's time on CUDA; `replace_layers` (layers.py) leaves few of them.
"""
