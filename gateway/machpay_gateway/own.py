"""What the gateway answers about itself: health, metrics, its manifest, and the look-up of a payment by its digest."""

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST

from machpay.protocol.x402 import SCHEME
from machpay_gateway import __version__
from machpay_gateway.answers import respond_json
from machpay_gateway.errors import RequestError
from machpay_gateway.metrics import Metrics
from machpay_gateway.payments import Payments
from machpay_gateway.reply import Reply
from machpay_gateway.request import Request
from machpay_gateway.routes import LOOK_UP_PREFIX
from machpay_gateway.settings import Settings

_LOOK_UP: Final = re.compile(re.escape(LOOK_UP_PREFIX) + r"payments/([0-9a-f]{64})")


def manifest(settings: Settings, status: str) -> dict[str, Any]:
    """`/machpay.json`: what is sold here, true to the configuration. Prices are atomic units."""
    gateway = settings.gateway
    priced = [route for route in settings.routes.routes if route.price_atomic]
    capabilities = ["streaming", "payment-look-up", "payment-identifier"]
    if any(route.metered for route in priced):
        capabilities.append("metered")
    return {
        "version": __version__,
        "gateway": settings.key.pubkey,
        "vendor": str(settings.vendor),
        "network": settings.network.caip2,
        "program_id": str(settings.network.program_id),
        "mint": str(settings.network.mint),
        "name": gateway.name,
        "description": gateway.description,
        "categories": gateway.categories,
        "base_price_atomic": min((route.price_atomic for route in priced), default=0),
        "capabilities": capabilities,
        "status": status,
        "endpoints": [
            {
                "method": route.method,
                "path": route.path + ("*" if route.match == "prefix" else ""),
                "price_atomic": route.price_atomic,
                "metered": route.metered,
                "description": route.description,
                **({} if route.input_schema is None else {"input_schema": route.input_schema}),
            }
            for route in settings.routes.routes
        ],
        "x402": {"schemes": [SCHEME]},
    }


class OwnEndpoints:
    """`health` gives the overall status and the components' details."""

    def __init__(
        self,
        settings: Settings,
        payments: Payments,
        metrics: Metrics,
        health: Callable[[], tuple[str, dict[str, dict[str, Any]]]],
    ) -> None:
        self._settings = settings
        self._payments = payments
        self._metrics = metrics
        self._health = health

    async def answer(self, request: Request, reply: Reply) -> None:
        """Answer a request for one of the gateway's own paths."""
        if request.method not in ("GET", "HEAD"):
            raise RequestError(
                405, "method_not_allowed", "only GET is offered here", ((b"allow", b"GET, HEAD"),)
            )
        if request.path == "/health":
            status, components = self._health()
            body = {"status": status, "service": "gateway", "gateway": self._settings.key.pubkey}
            # Free routes still work when it is down for payments, but a load balancer should look elsewhere.
            code = 503 if status == "down" else 200
            await respond_json(reply, code, msgspec.json.encode({**body, "components": components}))
        elif request.path == "/metrics":
            content_type = CONTENT_TYPE_LATEST.encode()
            await reply.whole(200, [(b"content-type", content_type)], self._metrics.render())
        elif request.path == "/machpay.json":
            await respond_json(reply, 200, msgspec.json.encode(manifest(self._settings, self._health()[0])))
        else:
            await self._look_up(request.path, reply)

    async def _look_up(self, path: str, reply: Reply) -> None:
        match = _LOOK_UP.fullmatch(path)
        if match is None:
            raise RequestError(404, "not_found", "a payment is looked up by the 64 hex digits of its digest")
        found = self._payments.find(bytes.fromhex(match[1]))
        body: dict[str, Any] = {
            "digest": match[1],
            "status": found.state,
            "in_flight": found.in_flight,
            "remembers_s": found.remembers_s,
        }
        if found.receipt is not None:
            body["receipt"] = found.receipt.to_json()
        await respond_json(reply, 200, msgspec.json.encode(body))
