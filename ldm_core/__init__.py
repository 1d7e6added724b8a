"""Latent diffusion models as a library: networks, noise schedules, samplers, loading.

Importing this package imports no torch, so that the gateway shares `params`, `errors`, `card`, `model_directory` and
`images` with the worker.
It sets up the environment of torch's threads (`environment.py`), so import it before torch.
"""

from ldm_core.environment import set_up

set_up()
