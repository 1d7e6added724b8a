"""Which release this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The version of the installed package; "unknown" in a tree that was never installed."""
    try:
        return version("ldm-service")
    except PackageNotFoundError:
        return "unknown"
