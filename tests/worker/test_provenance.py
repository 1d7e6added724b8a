"""Every image says of itself, where machines look for it, that a trained model made it."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ldm_core.images.decoding import open_image
from tests.worker.engine_kit import Kept, job, picture
from worker.engine.encode import Encoder, encode, encode_preview
from worker.jobs import CONTENT_TYPES, Format
from worker.settings import WorkerSettings

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
TYPE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def source_type(data: bytes) -> str | None:
    """What a file says of where its image comes from."""
    image = Image.open(io.BytesIO(data))
    image.load()  # a PNG's text may come after its pixels
    if "xmp" not in image.info:
        return None
    (description,) = ElementTree.fromstring(image.info["xmp"]).iter(f"{RDF}Description")
    return description.findtext(TYPE)


@pytest.mark.parametrize("kind", CONTENT_TYPES)
def test_every_format_says_so_unless_told_not_to(kind: Format) -> None:
    marked, plain = encode(picture(16), kind, None), encode(picture(16), kind, None, provenance=False)
    assert source_type(marked) == MEDIA
    assert source_type(plain) is None
    assert b"xmp" not in plain.lower() and b"xap" not in plain
    assert marked == encode(picture(16), kind, None)
    pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (marked, plain)]
    assert np.array_equal(*pixels)
    assert len(marked) - len(plain) < 700


@pytest.mark.parametrize("kind", CONTENT_TYPES)
def test_what_says_so_can_be_sent_in_again(kind: Format) -> None:
    opened = open_image(encode(picture(16), kind, "{}"), "image", lambda *_: None)
    assert opened.size == (16, 16)


def test_a_png_has_its_parameters_beside_it() -> None:
    info = Image.open(io.BytesIO(encode(picture(16), "png", '{"seed": 7}'))).info
    assert info["parameters"] == '{"seed": 7}'
    assert b"trainedAlgorithmicMedia" in info["xmp"]


def test_a_preview_says_nothing() -> None:
    assert source_type(encode_preview(picture(16))) is None


@pytest.mark.parametrize("kind", CONTENT_TYPES)
def test_the_engine_marks_its_images_unless_switched_off(kind: Format) -> None:
    for provenance, said in ((True, MEDIA), (False, None)):
        kept = Kept(encoder=Encoder(provenance=provenance))
        kept.engine.submit(job(format=kind))
        kept.run_all()
        assert source_type(kept.images("job")[0]) == said


def test_it_is_on_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert WorkerSettings().provenance
    monkeypatch.setenv("LDM_PROVENANCE", "0")
    assert not WorkerSettings().provenance
