"""Faster ways to the numbers that plain torch computes: README.md. Loading opens its one door, accelerate.py."""
