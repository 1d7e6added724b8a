"""Every error that this package raises on purpose; `service/errors.py` maps each class to an HTTP status.

LdmError
├── RequestError            the request is at fault; never retried
│   ├── InvalidParameter      a field out of its range
│   ├── InvalidImage          an image that cannot be used
│   └── UnsupportedTask       the model does not do what was asked
├── ModelError              a model directory is broken; stops a worker's start
├── DeviceLost              the device refuses all work; ends the process, and its jobs run elsewhere
└── JobError                a job failed while it ran
    ├── NonFiniteLatents      the sampler diverged
    ├── NonFiniteImage        the decoder overflowed, in float32 too
    ├── DeadlineExceeded      the job's timeout passed
    └── OutOfMemory           the job does not fit the device even alone
"""

from __future__ import annotations

from pathlib import Path


class LdmError(Exception):
    """Root of the tree; its message is one sentence that may be shown to a client."""


class RequestError(LdmError):
    """The request is at fault. `field` is the request's field, without slash (for example `steps`)."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail


class InvalidParameter(RequestError):
    """A field is out of its range, of the wrong type or does not go with another."""


class InvalidImage(RequestError):
    """An image is truncated, too small, too large or in a form we do not take."""


class UnsupportedTask(RequestError):
    """The model exists and does not do this task."""


class ModelError(LdmError):
    """A model directory is broken. The message names the file and what is wrong with it."""

    def __init__(self, path: Path | str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = Path(path)
        self.detail = detail


class DeviceLost(LdmError):
    """The device refuses all work since an earlier error of its own. No job's fault; the process has to end."""


class JobError(LdmError):
    """A job failed while it ran. `retryable` says whether another try could end differently."""

    retryable = False


class NonFiniteLatents(JobError):
    """The latents of a row became NaN or infinite."""


class NonFiniteImage(JobError):
    """The decoded image is NaN or infinite, even when decoded in float32."""


class DeadlineExceeded(JobError):
    """The job's timeout passed before it was done."""


class OutOfMemory(JobError):
    """The job does not fit into device memory, even alone."""
