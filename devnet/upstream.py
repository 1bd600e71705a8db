"""The API that the demo sells: text embeddings and a look-up of countries and time zones.

It knows nothing of payments; the gateways in front of it do all of that. Run with
`uvicorn devnet.upstream:app`. Embeddings come from wordllama's weights, the tables from the tzdata package.
"""

import functools
import importlib.resources
import json
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

import wordllama

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_TEXT_LENGTH = 4_000


class BadRequest(ValueError):
    """What the caller sent cannot be answered; becomes a 400."""


@functools.cache
def _model() -> Any:
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)


@functools.cache
def _countries() -> dict[str, dict[str, Any]]:
    """ISO country code -> its name and zones, from the tables that the tzdata package ships."""
    folder = importlib.resources.files("tzdata.zoneinfo")
    countries: dict[str, dict[str, Any]] = {}
    for line in folder.joinpath("iso3166.tab").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            code, name = line.split("\t")
            countries[code] = {"code": code, "name": name, "zones": []}
    for line in folder.joinpath("zone.tab").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            code, _coordinates, zone = line.split("\t")[:3]
            countries[code]["zones"].append(zone)
    return countries


def embed(text: str) -> dict[str, Any]:
    """The 256-dimensional embedding of `text`."""
    if not text or len(text) > MAX_TEXT_LENGTH:
        raise BadRequest(f"text must have 1 to {MAX_TEXT_LENGTH} characters")
    vector = _model().embed([text])[0]
    return {"text": text, "dimensions": len(vector), "embedding": [round(float(x), 6) for x in vector]}


def similarity(first: str, second: str) -> dict[str, Any]:
    """How close two texts are in meaning, from -1 to 1."""
    if not first or not second or len(first) + len(second) > MAX_TEXT_LENGTH:
        raise BadRequest(f"a and b must be texts with at most {MAX_TEXT_LENGTH} characters together")
    return {"a": first, "b": second, "similarity": round(float(_model().similarity(first, second)), 6)}


def country(code: str) -> dict[str, Any] | None:
    """A country's name and the local time in each of its zones; None if there is no such code."""
    entry = _countries().get(code.upper())
    if entry is None:
        return None
    times = {zone: datetime.now(ZoneInfo(zone)).isoformat(timespec="seconds") for zone in entry["zones"]}
    return {"code": entry["code"], "name": entry["name"], "local_times": times}


def answer(method: str, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, dict[str, Any]]:
    """The status and JSON of one request."""

    def parameter(name: str) -> str:
        return query.get(name, [""])[0]

    if path == "/health":
        return 200, {"status": "ok", "service": "upstream", "countries": len(_countries())}
    if path == "/embed" and method == "GET":
        return 200, embed(parameter("text"))
    if path == "/embed" and method == "POST":
        try:
            document = json.loads(body)
        except ValueError as error:
            raise BadRequest("the body must be JSON") from error
        if not isinstance(document, dict) or not isinstance(document.get("text"), str):
            raise BadRequest('the body must be {"text": "..."}')
        return 200, embed(document["text"])
    if path == "/similarity" and method == "GET":
        return 200, similarity(parameter("a"), parameter("b"))
    if path.startswith("/countries/") and method == "GET":
        found = country(path.removeprefix("/countries/"))
        return (200, found) if found else (404, {"error": "no such country code"})
    if path == "/fail":
        # A vendor's API that breaks: buyers of the demo can see that a failure costs nothing.
        raise RuntimeError("this route always fails")
    return 404, {"error": "no such path"}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                _model().embed(["warm"])
                await send({"type": "lifespan.startup.complete"})
            else:
                await send({"type": "lifespan.shutdown.complete"})
                return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    try:
        status, document = answer(
            scope["method"], scope["path"], parse_qs(scope["query_string"].decode()), body
        )
    except BadRequest as error:
        status, document = 400, {"error": str(error)}
    except Exception as error:  # the boundary of a server: any failure is a 500 to the caller
        status, document = 500, {"error": str(error)}
    payload = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(payload)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else payload})
