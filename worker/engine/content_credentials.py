"""Content Credentials (C2PA): a signed statement inside each image that a model made it, the same bytes every time.

The library salts each of its assertions at random, so that the same image is never signed to the same bytes. Here the
salts are set by the image itself, and what depends on them is computed anew: two hashes in the claim, and its
signature, by an algorithm that draws nothing. There is no time of signing without a timestamp authority, and no
thumbnail.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from PIL import Image

from ldm_core.errors import LdmError
from ldm_core.release import release
from worker.engine.encode import MADE_BY_A_MODEL
from worker.jobs import CONTENT_TYPES

SETTINGS = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}}
STORE, SALT = b"jumdc2pa", b"c2sh"  # how the description of the manifest store begins; the box of a salt
HEADER = 8  # bytes of a box: its length and its type
PNG_CHUNK = b"caBX"
HASHES = {"secp256r1": ("ES256", 256), "secp384r1": ("ES384", 384), "secp521r1": ("ES512", 512)}

Sign = Callable[[bytes], bytes]


class BadCredentials(LdmError):
    """The certificate and the key cannot sign."""


@dataclass(frozen=True, slots=True)
class Seal:
    """Signs images with one key. `sign` gives the same signature for the same bytes."""

    certificates: str  # PEM, the key's own first
    algorithm: str
    sign: Sign

    def __call__(self, data: bytes, content_type: str) -> bytes:
        """The image with its credentials. Raises c2pa.C2paError, or BadCredentials for what the library never wrote."""
        import c2pa

        signed: list[bytes] = []

        def sign(claim: bytes) -> bytes:
            signed[:] = [claim, self.sign(claim)]
            return signed[1]

        algorithm = getattr(c2pa.C2paSigningAlg, self.algorithm)
        out = io.BytesIO()
        with (
            c2pa.Context.from_dict(SETTINGS) as context,
            c2pa.Signer.from_callback(sign, algorithm, self.certificates) as signer,
            c2pa.Builder(_manifest(data), context) as builder,
        ):
            builder.sign(signer, content_type, io.BytesIO(data), out)
        claim, signature = signed
        return self._unsalted(bytearray(out.getvalue()), claim, signature, hashlib.sha256(data).digest())

    def _unsalted(self, data: bytearray, claim: bytes, signature: bytes, seed: bytes) -> bytes:
        """Sets every salt by `seed`, and signs what follows from that."""
        for number, (start, end) in enumerate(_assertions(data)):
            before = hashlib.sha256(data[start:end]).digest()
            salt = data.index(SALT, start, end) + len(SALT)
            data[salt : salt + 16] = hashlib.sha256(seed + bytes([number])).digest()[:16]
            after = hashlib.sha256(data[start:end]).digest()
            data, claim = _replaced(data, before, after), bytes(_replaced(bytearray(claim), before, after))
        return bytes(_checked(_replaced(data, signature, self.sign(claim))))


def _manifest(data: bytes) -> dict[str, Any]:
    """What is stated of the image `data`, under ids of its own."""
    agent = {"name": "ldm-service", "version": release()}
    number = UUID(bytes=hashlib.sha256(data).digest()[:16], version=4)
    created = {"action": "c2pa.created", "digitalSourceType": MADE_BY_A_MODEL, "softwareAgent": agent}
    return {
        "claim_generator_info": [agent],
        "label": f"urn:c2pa:{number}",
        "instance_id": f"xmp:iid:{number}",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }


def _assertions(data: bytearray) -> Iterator[tuple[int, int]]:
    """Where the contents of each assertion of the only manifest begin and end: what the claim has a hash of."""
    store = data.index(STORE) - HEADER + len(b"jumd")
    length = struct.unpack_from(">I", data, store - HEADER)[0]
    _, manifest = _boxes(data, store, store - HEADER + length)
    _, assertions, *_ = _boxes(data, *manifest)
    yield from _boxes(data, *assertions)[1:]


def _boxes(data: bytearray, start: int, end: int) -> list[tuple[int, int]]:
    """Where the contents of each box within `start` and `end` begin and end; the first one describes the others."""
    found = []
    while start < end:
        length = struct.unpack_from(">I", data, start)[0]
        if not HEADER <= length <= end - start:
            raise BadCredentials("the library has written boxes that cannot be read")
        found.append((start + HEADER, start + length))
        start += length
    return found


def _replaced(data: bytearray, old: bytes, new: bytes) -> bytearray:
    if data.count(old) != 1 or len(old) != len(new):
        raise BadCredentials("the library has written a claim that cannot be read")
    return data.replace(old, new)


def _checked(data: bytearray) -> bytearray:
    """With the checksum that a PNG has of its credentials."""
    if data.startswith(b"\x89PNG"):
        start = data.index(PNG_CHUNK)
        end = start + 4 + struct.unpack_from(">I", data, start - 4)[0]
        struct.pack_into(">I", data, end, zlib.crc32(data[start:end]))
    return data


def read_seal(certificates: Path, key: Path) -> Seal:
    """Reads PEM files: a chain that begins with the key's own certificate, and the key. Signs once, to try it.

    Raises BadCredentials.
    """
    try:
        import c2pa
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError:
        raise BadCredentials("needs c2pa-python: pip install '.[c2pa]'") from None
    chain = _read(certificates)
    try:
        own, secret = x509.load_pem_x509_certificates(chain)[0], load_pem_private_key(_read(key), None)
    except (ValueError, TypeError):  # TypeError: it has a passphrase
        raise BadCredentials(
            f"{certificates} or {key} is no PEM of certificates, of a key without passphrase"
        ) from None
    if own.public_key() != secret.public_key():
        raise BadCredentials(f"{key} is not the key of the first certificate in {certificates}")
    algorithm, sign = _signing(secret)
    seal = Seal(chain.decode(errors="replace"), algorithm, sign)
    try:
        for kind, content_type in CONTENT_TYPES.items():
            _try(seal, kind, content_type)
    except (c2pa.C2paError, ValueError) as error:
        raise BadCredentials(f"{certificates} cannot sign: {error}") from None
    return seal


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadCredentials(f"{path}: {error.strerror}") from None


def _signing(key: Any) -> tuple[str, Sign]:
    """The algorithm of a key, and how it signs. Raises BadCredentials."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ED25519", key.sign
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in HASHES:
        raise BadCredentials("the key must be one of P-256, P-384, P-521 or Ed25519: others sign differently each time")
    algorithm, bits = HASHES[key.curve.name]
    size = (key.curve.key_size + 7) // 8
    scheme = ec.ECDSA(getattr(hashes, f"SHA{bits}")(), deterministic_signing=True)  # RFC 6979

    def sign(data: bytes) -> bytes:
        parts = utils.decode_dss_signature(key.sign(data, scheme))
        return b"".join(part.to_bytes(size, "big") for part in parts)

    return algorithm, sign


def _try(seal: Seal, kind: str, content_type: str) -> None:
    """Raises BadCredentials where who reads the credentials of an image would find them broken."""
    import c2pa

    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, kind.upper())
    with c2pa.Reader(content_type, io.BytesIO(seal(image.getvalue(), content_type))) as reader:
        if reader.get_validation_state() not in {"Valid", "Trusted"}:
            failures = json.loads(reader.json()).get("validation_status", ())
            codes = ", ".join(sorted({failure["code"] for failure in failures}))
            raise BadCredentials(f"the certificate's credentials do not hold: {codes}")
