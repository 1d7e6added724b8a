"""Images that are signed with Content Credentials, read back by the C2PA library against a chain made here."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image, ImageChops

from ldm_core.images.decoding import open_image
from ldm_core.release import release
from tests.worker.engine_kit import Kept, job, picture
from worker.engine.content_credentials import BadCredentials, Seal, read_seal
from worker.engine.encode import MADE_BY_A_MODEL, Encoder, encode
from worker.jobs import CONTENT_TYPES, Format
from worker.settings import WorkerSettings

KEYS: dict[str, Any] = {
    "Es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "Es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "Es512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}
NOW = datetime.now()
USAGES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
          "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip


def name(common: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.COMMON_NAME, common), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"),
    ])  # fmt: skip


def certificate(of: Any, common: str, by: Any, *, authority: bool, days: int = 30) -> x509.Certificate:
    used = {"key_cert_sign", "crl_sign"} if authority else {"digital_signature"}
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common))
        .issuer_name(name("root"))
        .public_key(of.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=60))
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**{usage: usage in used for usage in USAGES}), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(of.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(by, hashes.SHA256())


class Files:
    """A certificate chain, its root and the key, as PEM files."""

    def __init__(self, folder: Path, kind: str = "Es256", key: Any = None, **given: Any) -> None:
        root, key = ec.generate_private_key(ec.SECP256R1()), key or KEYS[kind]()
        self.root = certificate(root, "root", root, authority=True).public_bytes(Encoding.PEM)
        self.chain, self.key = folder / f"{kind}.pem", folder / f"{kind}-key.pem"
        own = certificate(key, "ours", root, authority=False, **given).public_bytes(Encoding.PEM)
        self.chain.write_bytes(own + self.root)
        self.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    def seal(self) -> Seal:
        return read_seal(self.chain, self.key)

    def read(self, data: bytes, content_type: str) -> tuple[dict[str, Any], str | None]:
        """An image's active manifest, and what the library says of it to who trusts the root."""
        trust = {"trust": {"user_anchors": self.root.decode()}, "verify": {"verify_trust": True}}
        with c2pa.Reader(content_type, io.BytesIO(data), context=c2pa.Context.from_dict(trust)) as reader:
            told = json.loads(reader.json())
            return told["manifests"][told["active_manifest"]], reader.get_validation_state()


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("form", CONTENT_TYPES)
def test_an_image_says_under_a_trusted_signature_that_a_model_made_it(tmp_path: Path, form: Format, kind: str) -> None:
    files = Files(tmp_path, kind)
    plain = encode(picture(16), form, "{}" if form == "png" else None)
    signed = files.seal()(plain, CONTENT_TYPES[form])
    manifest, state = files.read(signed, CONTENT_TYPES[form])
    assert state == "Trusted" and manifest["signature_info"]["alg"] == kind
    (assertion,) = manifest["assertions"]
    (action,) = assertion["data"]["actions"]
    assert action["action"] == "c2pa.created" and action["digitalSourceType"] == MADE_BY_A_MODEL
    assert action["softwareAgent"] == {"name": "ldm-service", "version": release()}
    before, after = Image.open(io.BytesIO(plain)), Image.open(io.BytesIO(signed))
    assert ImageChops.difference(before, after).getbbox() is None and after.info["xmp"] == before.info["xmp"]
    assert after.info.get("parameters") == before.info.get("parameters")
    assert open_image(signed, "image", lambda *_: None).size == (16, 16)  # it can be sent in again


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("form", CONTENT_TYPES)
def test_the_same_image_is_signed_to_the_same_bytes(tmp_path: Path, form: Format, kind: str) -> None:
    files = Files(tmp_path, kind)
    one, other = encode(picture(16), form, None), encode(picture(24), form, None)
    first, second = files.seal()(one, CONTENT_TYPES[form]), files.seal()(one, CONTENT_TYPES[form])
    assert first == second
    manifests = [files.read(files.seal()(data, CONTENT_TYPES[form]), CONTENT_TYPES[form])[0] for data in (one, other)]
    assert manifests[0]["label"] != manifests[1]["label"]
    assert manifests[0]["instance_id"] != manifests[1]["instance_id"]


def test_a_changed_image_is_found_out(tmp_path: Path) -> None:
    files = Files(tmp_path)
    signed = files.seal()(encode(picture(16), "jpeg", None), "image/jpeg")
    assert files.read(signed[:-3] + b"\0" + signed[-2:], "image/jpeg")[1] == "Invalid"


@pytest.mark.parametrize("form", CONTENT_TYPES)
def test_the_engine_signs_what_it_encodes(tmp_path: Path, form: Format) -> None:
    files, made = Files(tmp_path), []
    for _ in range(2):
        kept = Kept(encoder=Encoder(seal=files.seal()))
        kept.engine.submit(job(format=form))
        kept.run_all()
        made.append(kept.images("job")[0])
    assert made[0] == made[1] and files.read(made[0], CONTENT_TYPES[form])[1] == "Trusted"


BAD: list[tuple[str, str]] = [
    ("key of another", "is not the key of the first certificate"),
    ("no file", "No such file or directory"),
    ("no pem", "is no PEM of certificates, of a key without passphrase"),
    ("rsa", "the key must be one of P-256, P-384, P-521 or Ed25519"),
    ("self-signed", "cannot sign"),
]


def broken(case: str, folder: Path) -> tuple[Path, Path]:
    files = Files(folder)
    match case:
        case "key of another":
            return files.chain, Files(folder, "Es384").key
        case "no file":
            return folder / "nothing.pem", files.key
        case "no pem":
            return files.key, files.chain
        case "rsa":
            files = Files(folder, "rsa", rsa.generate_private_key(65537, 2048))
            return files.chain, files.key
    key = ec.generate_private_key(ec.SECP256R1())
    files.chain.write_bytes(certificate(key, "root", key, authority=True).public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files.chain, files.key


@pytest.mark.parametrize(("case", "told"), BAD)
def test_what_cannot_sign_is_named_at_the_start(tmp_path: Path, case: str, told: str) -> None:
    with pytest.raises(BadCredentials, match=told):
        read_seal(*broken(case, tmp_path))


def test_an_expired_certificate_is_named_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadCredentials):
        Files(tmp_path, days=-1).seal()


def test_a_worker_does_not_start_with_half_of_it_or_with_a_bad_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        WorkerSettings(c2pa_cert=tmp_path / "a.pem")
    env = os.environ | {"LDM_C2PA_CERT": str(tmp_path / "a.pem"), "LDM_C2PA_KEY": str(tmp_path / "b.pem")}
    command = [sys.executable, "-m", "worker.process.main"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2 and f"{tmp_path}/a.pem: No such file" in done.stderr


def test_a_worker_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(BadCredentials, match=r"pip install '\.\[c2pa\]'"):
        read_seal(tmp_path / "a.pem", tmp_path / "b.pem")
