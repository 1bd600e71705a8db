"""The packet that tells the receiver once a minute how this gateway does: `com.machpay.gateway.telemetry`.

The first one leaves right after the start and carries the configuration block. A change of the configuration takes a
restart, so prices that changed are told by the first packet too.
"""

import asyncio
import gc
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from machpay.protocol.events import GATEWAY_TELEMETRY
from machpay_gateway import __version__
from machpay_gateway.metrics import Metrics
from machpay_gateway.settings import Settings
from machpay_gateway.telemetry.traffic import Period, RouteTraffic, Traffic

FIRST_S: Final = 1.0
"""Pause before the first packet. Periods are in whole seconds, so each has a start of its own."""
_REFUSALS: Final = {
    "solvency_rejects": "insufficient_bond",
    "replay_attacks_blocked": "nonce_replayed",
    "signature_failures": "invalid_signature",
}


class GcPauses:
    """The longest garbage collection of a period, which stops everything else. Use as a context manager."""

    def __init__(self) -> None:
        self._began_ns = 0
        self._longest_ns = 0

    def __enter__(self) -> "GcPauses":
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *exc_info: object) -> None:
        gc.callbacks.remove(self._note)

    def take_ns(self) -> int:
        """The longest pause since this was last asked."""
        longest, self._longest_ns = self._longest_ns, 0
        return longest

    def _note(self, phase: str, _info: dict[str, int]) -> None:
        now = time.perf_counter_ns()
        if phase == "start":
            self._began_ns = now
        else:
            self._longest_ns = max(self._longest_ns, now - self._began_ns)


class Packets:
    """Makes a packet per period and hands it to `emit`."""

    def __init__(
        self,
        settings: Settings,
        traffic: Traffic,
        metrics: Metrics,
        emit: Callable[[str, None, Callable[[], dict[str, Any]]], None],
    ) -> None:
        self._settings = settings
        self._traffic = traffic
        self._metrics = metrics
        self._emit = emit
        self._started = time.monotonic()
        self._began = int(time.time())
        self._cpu_s, self._cpu_at = time.process_time(), time.monotonic()
        self._counts = self._counters()

    async def run(self) -> None:
        """One packet right after the start, then one a period, for ever."""
        with GcPauses() as pauses:
            await asyncio.sleep(FIRST_S)
            self._send(pauses, {"config": config_block(self._settings)})
            while True:
                await asyncio.sleep(self._settings.telemetry.period_s)
                self._send(pauses, {})

    def last(self) -> None:
        """The rest of the running period, when the gateway stops."""
        with GcPauses() as pauses:
            self._send(pauses, {})

    def _send(self, pauses: GcPauses, config: dict[str, Any]) -> None:
        packet = self._packet(pauses, config)
        self._emit(GATEWAY_TELEMETRY, None, lambda: packet)

    def _packet(self, pauses: GcPauses, config: dict[str, Any]) -> dict[str, Any]:
        # A period has a length, however soon the gateway stops again.
        began, self._began = self._began, max(int(time.time()), self._began + 1)
        period, counts = self._traffic.take(), self._counters()
        changes = {name: counts[name] - self._counts[name] for name in counts}
        self._counts = counts
        return {
            "source": "gateway",
            "gateway_id": self._settings.key.pubkey,
            "period_start": began,
            "period_end": self._began,
            **config,
            "system": self._system(pauses),
            "network": self._network(period),
            "business": {
                "total_revenue": changes.pop("total_revenue"),
                "routes": {path: route.to_json() for path, route in by_path(period).items()},
                **changes,
            },
        }

    def _system(self, pauses: GcPauses) -> dict[str, Any]:
        now, cpu_s = time.monotonic(), time.process_time()
        used = (cpu_s - self._cpu_s) / max(now - self._cpu_at, 0.001)
        self._cpu_s, self._cpu_at = cpu_s, now
        return {
            "cpu_usage_percent": round(100 * used, 2),
            "ram_usage_mb": round(_resident_bytes() / 1024**2, 1),
            "goroutines": len(asyncio.all_tasks()),
            "gc_pause_ns": pauses.take_ns(),
            "uptime_seconds": int(now - self._started),
        }

    def _network(self, period: Period) -> dict[str, int]:
        return {
            "bytes_in": period.bytes_in,
            "bytes_out": period.bytes_out,
            "active_connections": self._traffic.connections,
        }

    def _counters(self) -> dict[str, int]:
        metrics = self._metrics
        refusals = {name: metrics.refusals.value(code) for name, code in _REFUSALS.items()}
        return {"total_revenue": metrics.charged_atomic.value(), **refusals}


def by_path(period: Period) -> dict[str, RouteTraffic]:
    """A period's routes by their path alone, methods added up, busiest first."""
    paths: dict[str, RouteTraffic] = {}
    for label, route in period.routes.items():
        # A path may hold spaces, and what has no route of its own has no method.
        paths.setdefault(label.partition(" ")[2] or label, RouteTraffic()).add(route)
    return dict(sorted(paths.items(), key=lambda item: -item[1].latencies.count))


def config_block(settings: Settings) -> dict[str, Any]:
    """What is sold, for listings and price alerts. Prices are atomic units; `price_per_unit` is the lowest."""
    routes = settings.routes.routes
    return {
        "accepted_mint": str(settings.network.mint),
        "price_per_unit": min((route.price_atomic for route in routes if route.price_atomic), default=0),
        "version": __version__,
        "vendor": str(settings.vendor),
        "name": settings.gateway.name,
        "network": settings.network.caip2,
        "routes": [
            {
                "method": route.method,
                "path": route.path,
                "match": route.match,
                "price_atomic": route.price_atomic,
            }
            for route in routes
        ],
    }


def _resident_bytes() -> int:
    """Memory in use now; where /proc does not say, the most there ever was."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
