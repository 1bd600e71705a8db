"""Addresses that an operator writes: http or https, an optional path, nothing else."""

from urllib.parse import urlsplit

from machpay_gateway.errors import ConfigError


def parse_url(text: str, name: str) -> str:
    """An http(s) origin with an optional path, without a trailing slash. Raises `ConfigError` naming `name`."""
    parts = urlsplit(text)
    try:
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username is not None:
        raise ConfigError(f"{name} must be an http(s) URL without query or credentials, not {text!r}")
    return text.rstrip("/")
