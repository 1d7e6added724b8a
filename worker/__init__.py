"""The process that owns the device: jobs in, pictures out. What the gateway imports from here is free of torch."""
