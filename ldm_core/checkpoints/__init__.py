"""Checkpoints of the research repositories (CompVis latent-diffusion, stable-diffusion) into model directories.

`yaml_reading` reads a bounded yaml, `diffusion` says what it asks for, `first_stages` takes an autoencoder from
elsewhere (`--vae`). Every parameter of ours asks for its source, so missing and unknown weights are named; tensors
are written one at a time and read back; a directory appears whole or not at all. `tests/golden` compares with the
research code.
"""

from ldm_core.checkpoints.importing import import_checkpoint

__all__ = ["import_checkpoint"]
