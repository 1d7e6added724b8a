"""Checkpoints of the research repositories (CompVis latent-diffusion, stable-diffusion) into model directories."""

from ldm_core.checkpoints.importing import import_checkpoint

__all__ = ["import_checkpoint"]
