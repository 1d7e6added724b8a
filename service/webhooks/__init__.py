"""Tells the webhooks of jobs that these have ended."""
