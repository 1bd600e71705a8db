"""HTTP to our own processes on this machine: no proxy, and no certificates, which every new client would take 30 ms to
read; and as patient as a busy machine needs."""

from typing import Any, Final

LOCAL: Final[dict[str, Any]] = {"trust_env": False, "verify": False, "timeout": 120}
"""Options of a request or a client of httpx."""
