"""Typed readers for environment variables that fail loudly, naming the variable.

The `demo` profile supplies insecure defaults for secrets; the `production` profile supplies none.
"""

import math
import os
from collections.abc import Sequence

from django.core.exceptions import ImproperlyConfigured

PROFILES = ("demo", "production")


def profile() -> str:
    """`MACHPAY_PROFILE`; production unless said otherwise, so that forgetting it is never the unsafe choice."""
    value = os.environ.get("MACHPAY_PROFILE", "production")
    if value not in PROFILES:
        raise ImproperlyConfigured(f"MACHPAY_PROFILE must be one of {', '.join(PROFILES)}, not {value!r}")
    return value


def text(*names: str, default: str | None = None, demo: str | None = None) -> str:
    """The first variable of `names` that is set and not empty, else the default of the profile."""
    for name in names:
        if value := os.environ.get(name):
            return value
    if demo is not None and profile() == "demo":
        return demo
    if default is None:
        raise ImproperlyConfigured(f"{names[0]} must be set (see .env.example)")
    return default


def integer(name: str, *, default: int, minimum: int = 0) -> int:
    raw = os.environ.get(name)
    if not raw:
        return default
    try:
        value = int(raw)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} must be a whole number, not {raw!r}") from error
    if value < minimum:
        raise ImproperlyConfigured(f"{name} must be at least {minimum}, not {value}")
    return value


def number(name: str, *, default: float, minimum: float = 0.0) -> float:
    raw = os.environ.get(name)
    if not raw:
        return default
    try:
        value = float(raw)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} must be a number, not {raw!r}") from error
    if not minimum <= value < math.inf:
        raise ImproperlyConfigured(f"{name} must be at least {minimum:g}, not {raw}")
    return value


def boolean(name: str, *, default: bool) -> bool:
    raw = os.environ.get(name, "").lower()
    if not raw:
        return default
    if raw in ("1", "true", "yes", "on"):
        return True
    if raw in ("0", "false", "no", "off"):
        return False
    raise ImproperlyConfigured(f"{name} must be true or false, not {raw!r}")


def words(name: str, *, default: Sequence[str] = ()) -> list[str]:
    """A comma-separated list."""
    raw = os.environ.get(name)
    return [word.strip() for word in raw.split(",") if word.strip()] if raw else list(default)
