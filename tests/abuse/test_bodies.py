"""Bodies that no client should send, to a gateway process: a 4xx that says what is wrong, and nothing is queued."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest
from redis import Redis

from tests.abuse.conftest import LIMIT
from tests.abuse.gateway import Gateway

BOUNDARY = b"frontier"
FORM = "multipart/form-data; boundary=frontier"

# body, status, and the pointer of the field at fault; None: there is no field to name
JSON: dict[str, tuple[bytes, int, str | None]] = {
    "nothing": (b"", 400, None),
    "blank": (b" \n", 400, None),
    "100,000 brackets": (b"[" * 100_000, 400, None),
    "100,000 nested lists": (b"[" * 100_000 + b"]" * 100_000, 400, None),
    "90,000 nested objects": (b'{"prompt":' * 90_000 + b"1" + b"}" * 90_000, 400, None),
    "900 levels": (b'{"prompt":"x","metadata":' + b"[" * 900 + b"]" * 900 + b"}", 422, "/metadata"),
    "a string": (b'"x"', 422, ""),
    "null": (b"null", 422, ""),
    "NaN": (b'{"prompt":"x","eta":NaN}', 400, None),
    "Infinity": (b'{"prompt":"x","guidance_scale":-Infinity}', 400, None),
    "1e400": (b'{"prompt":"x","guidance_scale":1e400}', 422, "/guidance_scale"),
    "1e400 for an integer": (b'{"prompt":"x","steps":1e400}', 422, "/steps"),
    "5,000 digits": (b'{"prompt":"x","seed":' + b"9" * 5000 + b"}", 400, None),
    "4,000 digits": (b'{"prompt":"x","seed":' + b"9" * 4000 + b"}", 422, "/seed"),
    "4,000 digits for a float": (b'{"prompt":"x","eta":' + b"9" * 4000 + b"}", 422, "/eta"),
    "a size of 4,000 digits": (
        b'{"prompt":"x","width":' + b"9" * 4000 + b',"height":' + b"8" * 4000 + b"}", 422, "/height",
    ),
    "a key twice": (b'{"prompt":"x","seed":1,"seed":2}', 422, "/seed"),
    "a key twice, once escaped": (b'{"prompt":"x","se\\u0065d":1,"seed":2}', 422, "/seed"),
    "half a surrogate pair": (b'{"prompt":"\\ud800"}', 422, "/prompt"),
    "half a pair in a name": (b'{"prompt":"x","\\ud800":1}', 422, ""),
    "half a pair in metadata": (b'{"prompt":"x","metadata":{"\\udfff":"x"}}', 422, "/metadata"),
    "half a pair that would be echoed": (b'{"prompt":"x","sampler":"\\ud800"}', 422, "/sampler"),
    "half a pair for a picture": (b'{"prompt":"x","image":"\\uDBFF"}', 422, "/image"),
    "a surrogate in bytes": (b'{"prompt":"\xed\xa0\x80"}', 400, None),
    "Latin-1": (b'{"prompt":"\xe9"}', 400, None),
    "UTF-16": ('{"prompt":"x"}'.encode("utf-16"), 400, None),
    "a NUL in JSON": (b'{"prompt":"x\0"}', 400, None),
    "a raw line break": (b'{"prompt":"x\ny"}', 400, None),
    "a byte order mark": (b'\xef\xbb\xbf{"prompt":"x"}', 400, None),
    "a comment": (b'{"prompt":"x"/**/}', 400, None),
    "two documents": (b'{"prompt":"x"}{}', 400, None),
    "a list for a prompt": (b'{"prompt":["x"]}', 422, "/prompt"),
    "a number for a prompt": (b'{"prompt":1}', 422, "/prompt"),
    "true for a number": (b'{"prompt":"x","steps":true}', 422, "/steps"),
    "an object for a picture": (b'{"prompt":"x","image":{}}', 422, "/image"),
    "a name of 500 kB": (b'{"prompt":"x","' + b"n" * 500_000 + b'":1}', 422, "/" + "n" * 80),
    "a name with a pointer's signs": (b'{"prompt":"x","a/b~c":1}', 422, "/a~1b~0c"),
    "9,000 unknown fields": (
        b'{"prompt":"x",' + b",".join(b'"f%d":1' % i for i in range(9000)) + b"}", 422, "/f0",
    ),
    "100,000 values": (b'{"prompt":"x","neighbors":[' + b",".join([b"[]"] * 100_000) + b"]}", 422, ""),
    "a model of 500 kB": (b'{"prompt":"x","model":"' + b"m" * 500_000 + b'"}', 422, "/model"),
    "a model that is a path": (b'{"prompt":"x","model":"../../etc/passwd\\u0000"}', 422, "/model"),
    "a model that is a key": (b'{"prompt":"x","model":"*\\r\\nFLUSHALL\\r\\n"}', 422, "/model"),
    "a sampler of 500 kB": (b'{"prompt":"x","sampler":"' + b"s" * 500_000 + b'"}', 422, "/sampler"),
}  # fmt: skip


def part(name: bytes, content: bytes = b"x", more: bytes = b"") -> bytes:
    return b"--frontier\r\nContent-Disposition: form-data" + name + b"\r\n" + more + b"\r\n" + content + b"\r\n"


PROMPT, END = part(b'; name="prompt"'), b"--frontier--\r\n"
FORMS: dict[str, tuple[str, bytes, int, str | None]] = {
    "no boundary": ("multipart/form-data", PROMPT + END, 400, None),
    "an empty boundary": ("multipart/form-data; boundary=", PROMPT + END, 400, None),
    "a boundary of 10 kB": ("multipart/form-data; boundary=" + "b" * 10_000, PROMPT + END, 400, None),
    "another boundary": ("multipart/form-data; boundary=other", PROMPT + END, 400, None),
    "no body": (FORM, b"", 422, "/prompt"),
    "no end": (FORM, PROMPT, 422, "/prompt"),
    "an empty prompt": (FORM, part(b'; name="prompt"', b"") + END, 422, "/prompt"),
    "a part without a name": (FORM, part(b"") + END, 400, None),
    "a part without disposition": (FORM, b"--frontier\r\n\r\nx\r\n" + END, 400, None),
    "an empty name": (FORM, PROMPT + part(b'; name=""') + END, 422, "/"),
    "10,000 parts": (FORM, b"".join(part(b'; name="f%d"' % i) for i in range(10_000)) + END, 400, None),
    "10,000 files": (
        FORM, b"".join(part(b'; name="f%d"; filename="a"' % i) for i in range(10_000)) + END, 400, None,
    ),
    "a header of 500 kB": (FORM, part(b'; name="prompt"', more=b"X: " + b"x" * 500_000 + b"\r\n") + END, 400, None),
    "50,000 headers": (FORM, part(b'; name="prompt"', more=b"X-More: x\r\n" * 50_000) + END, 400, None),
    "a name of 4 kB": (FORM, PROMPT + part(b'; name="' + b"n" * 3900 + b'"') + END, 422, "/" + "n" * 80),
    "a field twice": (FORM, PROMPT * 2 + END, 422, "/prompt"),
    "a number of 5,000 digits": (FORM, PROMPT + part(b'; name="steps"', b"9" * 5000) + END, 422, "/steps"),
    "not a number": (FORM, PROMPT + part(b'; name="eta"', b"nan") + END, 422, "/eta"),
    "infinity": (FORM, PROMPT + part(b'; name="guidance_scale"', b"inf") + END, 422, "/guidance_scale"),
    "deep metadata": (FORM, PROMPT + part(b'; name="metadata"', b"[" * 100_000) + END, 422, "/metadata"),
    "half a pair in metadata": (FORM, PROMPT + part(b'; name="metadata"', b'{"a":"\\ud800"}') + END, 422, "/metadata"),
    "a file of bytes for a prompt": (FORM, part(b'; name="prompt"; filename="a"', b"\xff\xfe") + END, 422, "/prompt"),
    "text for a picture": (FORM, PROMPT + part(b'; name="image"', b"hello") + END, 422, "/image"),
    "charset undefined": (FORM + "; charset=undefined", PROMPT + END, 415, None),
    "charset idna": (FORM + "; charset=idna", PROMPT + END, 415, None),
    "charset punycode": (FORM + "; charset=punycode", PROMPT + END, 415, None),
    "charset hex": (FORM + "; charset=hex", PROMPT + END, 415, None),
    "charset utf-16": (FORM + "; charset=utf-16", PROMPT + END, 415, None),
    "JSON in utf-7": ("application/json; charset=utf-7", b'{"prompt":"x"}', 415, None),
    "mixed": ("multipart/mixed; boundary=frontier", PROMPT + END, 415, None),
    "two types": ("application/json, multipart/form-data", b"{}", 415, None),
    "a type of 10 kB": ("application/" + "j" * 10_000, b"{}", 415, None),
    "newlines only": (FORM, b"\r\n" * 400_000, 422, "/prompt"),
}  # fmt: skip

TEXTS = {
    "four bytes": "a \U0001f3e0 by the \U0001f30a",
    "controls": "".join(map(chr, range(32))) + "\x7f\x80\x9b",
    "NUL": "a\0b",
    "escape sequences": "\x1b[2J\x1b]0;title\x07",
    "right to left": "\u202eabc\u2066",
    "no characters": "\ufffe\uffff\U0010ffff",
    "combining": "e" + "\u0301" * 1999,
    "a template": "{{7*7}} ${jndi:ldap://a} %s %n {0}",
}


@pytest.fixture(autouse=True)
def nothing_more_is_queued(request: pytest.FixtureRequest, redis_server: object) -> Iterator[None]:
    with Redis.from_url(redis_server.url) as redis:  # type: ignore[attr-defined]
        before = redis.zcard("ldm:open")
        yield
        assert redis.zcard("ldm:open") - before == ("taken" in request.node.name)


def refused(gateway: Gateway, body: bytes, kind: str) -> tuple[int, dict[str, object], httpx.Response]:
    """What the gateway answers; soon, in short, and it goes on living."""
    started = time.monotonic()
    answer = httpx.post(f"{gateway.url}/v1/txt2img", content=body, headers={"Content-Type": kind}, timeout=20)
    assert time.monotonic() - started < 5
    assert answer.headers["content-type"] == "application/problem+json", answer.text[:200]
    assert len(answer.content) < 5000
    assert httpx.get(f"{gateway.url}/healthz").status_code == 200
    return answer.status_code, answer.json(), answer


def pointers(problem: dict[str, object]) -> list[str]:
    return [error["pointer"] for error in problem.get("errors", [])]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", JSON)
def test_json_that_is_none_or_too_much(gateway: Gateway, name: str) -> None:
    body, status, pointer = JSON[name]
    assert len(body) < LIMIT
    got, problem, _ = refused(gateway, body, "application/json")
    assert got == status, problem
    assert pointer is None or pointer in pointers(problem), problem


@pytest.mark.parametrize("name", FORMS)
def test_forms_that_are_none_or_too_much(gateway: Gateway, name: str) -> None:
    kind, body, status, pointer = FORMS[name]
    assert len(body) < LIMIT
    got, problem, _ = refused(gateway, body, kind)
    assert got == status, problem
    assert pointer is None or pointer in pointers(problem), problem


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("form", [False, True], ids=["JSON", "form"])
def test_any_text_is_taken_as_it_is(client: httpx.Client, name: str, form: bool) -> None:
    body = {"prompt": TEXTS[name], "metadata": {TEXTS[name]: TEXTS[name]} if len(TEXTS[name]) < 100 else {}}
    if form:
        files = {"prompt": (None, TEXTS[name]), "metadata": (None, json.dumps(body["metadata"]))}
        made = client.post("/v1/txt2img", files=files)
    else:
        made = client.post("/v1/txt2img", json=body)
    assert made.status_code == 202, made.text
    seen = client.get(made.headers["location"]).json()["request"]
    assert {name: seen[name] for name in body} == body
