"""Addresses that an operator writes: http or https, an optional path, nothing else."""

import re
from typing import Final
from urllib.parse import urlsplit

from machpay_gateway.errors import ConfigError

_UNPRINTED: Final = re.compile(r"[\x00-\x20\x7f]")


def parse_url(text: str, name: str, *, query: bool = False) -> str:
    """An http(s) origin with an optional path, without a trailing slash. Raises `ConfigError` naming `name`.

    With `query` it may have one: RPC providers hand out access tokens like that."""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or _UNPRINTED.search(text) or parts.fragment or parts.username is not None:
        raise ConfigError(f"{name} must be an http(s) URL without spaces or credentials, not {text!r}")
    if parts.query and not query:
        raise ConfigError(f"{name} must be an http(s) URL without a query, not {text!r}")
    return text if parts.query else text.rstrip("/")
