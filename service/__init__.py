"""The gateway: HTTP in, job out. Never imports torch."""
