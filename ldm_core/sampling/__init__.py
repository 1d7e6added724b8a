"""Noise schedules, samplers, and the state of one image between steps."""
