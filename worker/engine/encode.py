"""Images to bytes, the same bytes every time. No torch."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from worker.engine.png import png
from worker.jobs import CONTENT_TYPES, QUALITY, Format, JobPayload

PREVIEW_SIDE = 128  # pixels
MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
# That a machine made the image, as the IPTC names it (EU AI Act, article 50(2)). An XMP packet, which platforms read:
# the same for every image, so that equal requests stay equal bytes.
PROVENANCE = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    f"<Iptc4xmpExt:DigitalSourceType>{MADE_BY_A_MODEL}"
    "</Iptc4xmpExt:DigitalSourceType></rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="r"?>'
)
XMP_KEYWORD = "XML:com.adobe.xmp"  # of a PNG's text chunk (XMP specification, part 3)


@dataclass(frozen=True, slots=True)
class Encoder:
    """How finished images become files: with their parameters, with XMP, signed by `seal` (image, content type)."""

    png_metadata: bool = True
    provenance: bool = True
    seal: Callable[[bytes, str], bytes] | None = None

    def __call__(self, job: JobPayload, index: int, image: Image.Image) -> bytes:
        """The file of a job's image `index`. Raises what `seal` raises."""
        parameters = parameters_of(job, index) if self.png_metadata else None
        data = encode(image, job.format, parameters, provenance=self.provenance, quality=job.output_compression)
        return data if self.seal is None else self.seal(data, CONTENT_TYPES[job.format])


PLAIN = Encoder()


def encode(
    image: Image.Image, kind: Format, parameters: str | None, *, provenance: bool = True, quality: int | None = None
) -> bytes:
    """Encodes an RGB image; a PNG carries `parameters` in a text chunk of that name.

    With `provenance` the file says in XMP that a trained model made it; `quality` is a JPEG's or a WebP's, 0 to 100.
    """
    if kind == "png":
        texts = {"parameters": parameters, XMP_KEYWORD: PROVENANCE if provenance else None}
        return png(image, *((keyword, text) for keyword, text in texts.items() if text is not None))
    buffer, xmp = io.BytesIO(), PROVENANCE.encode() if provenance else b""
    quality = QUALITY if quality is None else quality
    if kind == "jpeg":
        image.save(buffer, "JPEG", quality=max(1, quality), subsampling=0, xmp=xmp)
    else:
        image.save(buffer, "WEBP", quality=quality, method=4, xmp=xmp)
    return buffer.getvalue()


def encode_preview(image: Image.Image) -> bytes:
    """A small JPEG, some kilobytes."""
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=75)
    return buffer.getvalue()


def parameters_of(job: JobPayload, index: int) -> str:
    """The parameters of image `index` as a job of its own, so that both give the same bytes."""
    alone = {**job.params.to_json(), "model": job.model, "seed": job.params.image_seed(index)}
    del alone["n"]
    if job.upscale is not None:
        alone["upscale"] = True
    return json.dumps(alone, sort_keys=True, ensure_ascii=False)
