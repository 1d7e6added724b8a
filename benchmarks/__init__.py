import ldm_core  # noqa: F401 - before torch, whose threads it sets up
