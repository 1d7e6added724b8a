"""The commands of `ldm`. `service/cli.py` calls their modules: `add_options`, and `run`, which returns an exit code."""
