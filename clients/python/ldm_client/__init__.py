"""A client of ldm-service: images from latent diffusion models, over HTTP."""

from ldm_client.answers import Event, Model, ProgressEvent, StatusEvent, Warn
from ldm_client.client import AsyncClient, Client
from ldm_client.errors import (
    ApiError,
    ConnectionFailed,
    FieldError,
    Forbidden,
    JobCancelled,
    JobFailed,
    LdmError,
    NotFound,
    RateLimited,
    Unauthorized,
    Unavailable,
    ValidationError,
    WaitTimeout,
)
from ldm_client.fields import ImageInput
from ldm_client.jobs import AsyncImage, AsyncJob, Image, Job
from ldm_client.tasks import VERSION

__version__ = VERSION
__all__ = [
    "ApiError", "AsyncClient", "AsyncImage", "AsyncJob", "Client", "ConnectionFailed", "Event", "FieldError",
    "Forbidden", "Image", "ImageInput", "Job", "JobCancelled", "JobFailed", "LdmError", "Model", "NotFound",
    "ProgressEvent", "RateLimited", "StatusEvent", "Unauthorized", "Unavailable", "ValidationError", "WaitTimeout",
    "Warn",
]  # fmt: skip
