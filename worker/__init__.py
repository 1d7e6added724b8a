"""The process that owns the device: jobs in, images out. What the gateway imports from here is free of torch."""

import ldm_core  # noqa: F401 - before torch, whose threads it sets up
