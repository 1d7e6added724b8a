"""TLS for servers of tests."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path


def context_of_localhost(folder: Path) -> ssl.SSLContext:
    """A server's, with a certificate for `localhost` that signs itself: `cert.pem` in `folder`, beside `key.pem`."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context
