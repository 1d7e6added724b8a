"""Latent diffusion models as a library: networks, noise schedules, samplers, loading, training.

Importing this package imports no torch, so that the gateway can share `params`, `errors` and `config` with the worker.
"""
