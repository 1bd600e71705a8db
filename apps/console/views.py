"""The console's pages. Each renders in full without JavaScript; scripts only keep it current."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from apps.console import selectors, stats
from apps.console.security import content_security_policy
from apps.telemetry import selectors as telemetry

PAYMENT_ROWS: Final = 25
SETTLEMENT_ROWS: Final = 9
GATEWAY_ROWS: Final = 24


def _sees_parties(request: HttpRequest) -> bool:
    """Who paid whom is for network staff here; everybody else sees the anonymous ticker."""
    return bool(request.user.is_staff and request.user.is_active)


def _payments(request: HttpRequest) -> dict[str, Any]:
    if _sees_parties(request):
        return {"payments": telemetry.recent_payments(PAYMENT_ROWS), "sees_parties": True}
    return {"payments": telemetry.recent_ticker(PAYMENT_ROWS), "sees_parties": False}


def _settlements(_request: HttpRequest) -> dict[str, Any]:
    return {"settlements": selectors.recent_settlements(SETTLEMENT_ROWS)}


def _gateways(_request: HttpRequest) -> dict[str, Any]:
    return {"gateways": selectors.gateways(GATEWAY_ROWS)}


_PARTS: Final[dict[str, Callable[[HttpRequest], dict[str, Any]]]] = {
    "payments": _payments,
    "settlements": _settlements,
    "gateways": _gateways,
}


@content_security_policy
@never_cache
@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """The network, live."""
    context: dict[str, Any] = {
        "totals": selectors.totals(),
        "rate": stats.current_rate(),
        "network": selectors.network(),
        "now": datetime.now(UTC),
        "payment_rows": PAYMENT_ROWS,
    }
    for part in _PARTS.values():
        context |= part(request)
    context["topics"] = _topics(request, context["gateways"])
    return render(request, "console/home.html", context)


def _topics(request: HttpRequest, gateways: list[selectors.GatewayLine]) -> str:
    """What the page's stream watches. Staff gets full payments from the gateways' topics beside the ticker, which
    also carries settlements; the script then leaves the ticker's anonymous payments out."""
    topics = ["ticker", "stats"]
    if _sees_parties(request):
        topics += [f"vendor:{gateway.pubkey}" for gateway in gateways]
    return ",".join(topics)


@content_security_policy
@never_cache
@require_safe
def part(request: HttpRequest, name: str) -> HttpResponse:
    """One section as HTML, for a page that may have missed events."""
    if name not in _PARTS:
        raise Http404
    return render(request, f"console/parts/{name}.html", _PARTS[name](request))
