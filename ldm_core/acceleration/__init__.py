"""Faster ways to the numbers that plain torch computes: README.md. `loading` alone calls `accelerate.accelerate`."""
