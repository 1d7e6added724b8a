"""The worker process, `ldm worker`: reads its settings, loads its models, then works until it is told to stop."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress

import torch

from ldm_core.acceleration import native
from ldm_core.errors import ModelError
from ldm_core.loading.model import load_model
from ldm_core.model import LatentDiffusion
from ldm_core.model_directory.card_reader import check_directories
from worker.engine.content_credentials import BadCredentials, read_seal
from worker.engine.encode import Encoder
from worker.engine.engine import Engine
from worker.engine.run_in_thread import run_in_thread
from worker.engine.warm_up import warm_up_jobs
from worker.leasing.batch_worker import BatchWorker
from worker.logs import set_up_logging
from worker.metrics import WorkerMetrics, process_memory
from worker.process.device import chosen_device, chosen_dtype
from worker.settings import WorkerSettings, read_settings
from worker.store.blobs import open_blobs
from worker.store.connection import AWAY, able, connect
from worker.store.health import Unusable, inspect
from worker.vital import EXIT_BAD_SETTING, EXIT_BROKEN_MODEL

log = logging.getLogger("worker.process.main")  # also when it runs as __main__


def main() -> int:
    """Exit codes: 0 told to stop, 2 a bad setting, 3 a broken model directory, 4 another worker serves
    other weights under a model id of ours, 70 the device hangs or a thread died."""
    settings = read_settings(WorkerSettings)
    set_up_logging(settings.log_format)
    try:
        with suppress(*AWAY), able():  # it may come later
            inspect(connect(settings.redis_url), allow_eviction=settings.allow_eviction)
    except Unusable as error:
        log.critical("%s", error)
        return EXIT_BAD_SETTING
    try:
        encoder = encoder_of(settings)
    except BadCredentials as error:
        print(f"LDM_C2PA_CERT, LDM_C2PA_KEY: {error}", file=sys.stderr)
        return EXIT_BAD_SETTING
    try:
        models = run_in_thread(lambda: load_models(settings))
    except ModelError as error:
        print(f"ldm worker: {error}", file=sys.stderr)
        return EXIT_BROKEN_MODEL
    device = next(iter(models.values())).device
    on_gpu = device.type == "cuda"
    rows = {model_id: rows_of(model, settings) for model_id, model in models.items()}
    if settings.rows is not None and settings.rows > 1 and not (on_gpu or native.reproducible_products()):
        log.warning("LDM_ROWS=%d: on this processor the last bits of a row may depend on its place", settings.rows)
    metrics = WorkerMetrics()
    metrics.watch_memory(lambda: float(torch.cuda.memory_allocated(device)) if on_gpu else process_memory())
    metrics.serve(settings.metrics_host, settings.metrics_port)  # it is ready for jobs
    cards = {model_id: model.card for model_id, model in models.items()}
    worker = BatchWorker(
        connect(settings.redis_url), open_blobs(settings.redis_url, settings.data_dir), cards, metrics, settings,
        {model_id: (model.digest, str(model.dtype).removeprefix("torch.")) for model_id, model in models.items()},
    )  # fmt: skip
    engine = Engine(
        models, rows=rows, max_rows=settings.max_rows, emit=worker.emit, metrics=metrics,
        encoder=encoder, checkpoint_s=settings.checkpoint_s,
        warm_up=warm_up_jobs(cards.values()) if on_gpu else (),  # a CPU's first calls take little more than others
    )  # fmt: skip
    worker.serve(engine)
    return 0


def load_models(settings: WorkerSettings) -> dict[str, LatentDiffusion]:
    """Every model directory, by model id; what they have in common is held once. Raises ModelError."""
    device = chosen_device(settings.device)
    dtype = chosen_dtype(settings.dtype, device)
    models: dict[str, LatentDiffusion] = {}
    shared: dict[str, torch.nn.Module] = {}
    check_directories(settings.model_dirs)  # all of them before the first is loaded
    for directory in settings.model_dirs:
        model = load_model(directory, device, dtype, shared)
        models[model.card.id] = model
        log.info("loaded model %s on %s as %s", model.card.id, device, dtype)
        for warning in model.card.warnings:
            log.warning("model %s: %s", model.card.id, warning.detail)
    if not models:
        raise ModelError("LDM_MODEL", "names no model directory, and none came with this installation")
    return models


def rows_of(model: LatentDiffusion, settings: WorkerSettings) -> int:
    """Rows of each of the model's U-Net calls."""
    return settings.rows or min(model.default_rows(), settings.max_rows)


def encoder_of(settings: WorkerSettings) -> Encoder:
    """What encodes every image, and signs it where the settings say with what. Raises BadCredentials."""
    certificates, key = settings.c2pa_cert, settings.c2pa_key
    seal = None if certificates is None or key is None else read_seal(certificates, key)
    return Encoder(settings.png_metadata, settings.provenance, seal)


if __name__ == "__main__":
    sys.exit(main())
