"""Runs jobs on one device: scheduler, steps, finished images. Knows no Redis."""
