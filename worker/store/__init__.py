"""What Redis and the disk hold, and the scripts that change it. Shared with the gateway."""
