"""Who is asking, and how often may they: addresses behind trusted proxies, and a rate limit that costs next to nothing.

The limit comes before any cryptography. One number per address (the generic cell rate algorithm): the time at which its
allowance will be whole again.
"""

import ipaddress
import math
import time
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from machpay_gateway.errors import ConfigError, RequestError

_SWEEP_S: Final = 1.0
"""Pause between two looks for addresses that need not be remembered any more."""
_OTHERS: Final = ""
"""The one allowance that all new addresses share while the memory for addresses is full."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxies:
    """Peers whose `X-Forwarded-*` headers are believed."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Raises `ConfigError` for what is neither an address nor a network."""
        self._networks: list[Network] = []
        for text in networks:
            try:
                self._networks.append(ipaddress.ip_network(text))
            except ValueError as error:
                raise ConfigError(f"limits.trusted_proxies: {error}") from error
        self._trusted = lru_cache(4096)(self._is_trusted)

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, host: str) -> bool:
        return bool(self._networks) and self._trusted(host)

    def client(self, peer: str, forwarded_for: bytes) -> str:
        """The address nearest to the client that a trusted proxy saw: from the right, the first that is no proxy."""
        host = peer
        for text in reversed(forwarded_for.decode("latin-1").split(",")):
            address = text.strip()
            if not _is_address(address):
                break
            host = address
            if not self._trusted(host):
                break
        return host

    def _is_trusted(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            # How IPv4 peers are shown by a socket that listens on both.
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


class RateLimit:
    """`rate_per_s` requests a second and address on average, `burst` at once. A rate of 0 is no limit."""

    def __init__(self, rate_per_s: float, burst: int, max_addresses: int) -> None:
        self._cost_s = 1 / rate_per_s if rate_per_s else 0.0
        self._depth_s = self._cost_s * burst
        self._max_addresses = max_addresses
        self._whole_at: dict[str, float] = {}
        self._swept_at = 0.0

    def __len__(self) -> int:
        return len(self._whole_at)

    def take(self, host: str) -> float:
        """Count one request: 0 if it may be served, else in how many seconds the next one may. The machine itself is
        never limited."""
        key = _network_of(host) if ":" in host else host
        if not self._cost_s or key.startswith("127.") or host == "::1":
            return 0.0
        now = time.monotonic()
        whole_at = self._whole_at.get(key)
        if whole_at is None:
            if len(self._whole_at) >= self._max_addresses:
                self._sweep(now)
                if len(self._whole_at) >= self._max_addresses:
                    key = _OTHERS
            whole_at = self._whole_at.get(key, now)
        after = max(whole_at, now) + self._cost_s
        wait_s = after - now - self._depth_s
        # Half a microsecond for what floating point adds up to.
        if wait_s > 5e-7:
            return wait_s
        self._whole_at[key] = after
        return 0.0

    def _sweep(self, now: float) -> None:
        if now - self._swept_at < _SWEEP_S:
            return
        self._swept_at = now
        self._whole_at = {key: whole_at for key, whole_at in self._whole_at.items() if whole_at > now}


def rate_limited(wait_s: float) -> RequestError:
    """429, for an address that has to wait so long."""
    retry_after = (b"retry-after", str(math.ceil(wait_s)).encode())
    return RequestError(429, "rate_limited", "too many requests from this address", (retry_after,))


@lru_cache(4096)
def _network_of(host: str) -> str:
    """Whoever has one IPv6 address has a /64 of them."""
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped
    return str(mapped) if mapped is not None else str(ipaddress.IPv6Network((address, 64), strict=False))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
