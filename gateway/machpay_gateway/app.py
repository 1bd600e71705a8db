"""The ASGI application: which part answers a request. No decisions about money here."""

import math

from machpay_gateway.answers import respond_preflight, respond_problem
from machpay_gateway.errors import RequestError
from machpay_gateway.free import FreeExchanges
from machpay_gateway.limits import Proxies, RateLimit
from machpay_gateway.logs import REQUEST_ID
from machpay_gateway.metrics import Metrics
from machpay_gateway.own import OwnEndpoints
from machpay_gateway.paid import PaidExchanges
from machpay_gateway.request import ClientGone, Receive, Request, Scope, Send
from machpay_gateway.routes import LOOK_UP_PREFIX, OWN_PATHS, Priced, RouteTable
from machpay_gateway.settings import LimitsSection
from machpay_gateway.telemetry.traffic import Exchange, Traffic


class GatewayApp:
    """One gateway behind an ASGI server. `requests_total` counts what it answered, its own endpoints left out;
    `traffic` is also told by the server what it receives."""

    def __init__(
        self,
        routes: RouteTable,
        max_body_bytes: int,
        own: OwnEndpoints,
        free: FreeExchanges,
        paid: PaidExchanges,
        metrics: Metrics,
        traffic: Traffic,
        limits: LimitsSection,
    ) -> None:
        self._routes = routes
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = limits.body_timeout_s
        self._proxies = Proxies(limits.trusted_proxies)
        self._rate = RateLimit(limits.rate_per_s, limits.rate_burst, limits.max_addresses)
        self._own = own
        self._free = free
        self._paid = paid
        self._metrics = metrics
        self.traffic = traffic
        self.requests_total = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"this application serves HTTP, not {scope['type']}")
        request = Request(scope, receive, self._max_body_bytes, self._body_timeout_s, self._proxies)
        REQUEST_ID.set(request.request_id)
        exchange = self.traffic.measure(send)
        self._metrics.in_flight += 1
        try:
            await self._route(request, exchange)
        except RequestError as error:
            await respond_problem(exchange, error)
        except ClientGone:
            pass
        finally:
            self._metrics.in_flight -= 1
            exchange.end()

    def _bound(self, request: Request) -> None:
        """Refuse what costs too much before anything is computed for it. Raises 429, 501."""
        wait_s = self._rate.take(request.client_host or "")
        if wait_s and request.path != "/health":
            self._metrics.requests.add(1, "limited", "")
            retry_after = (b"retry-after", str(math.ceil(wait_s)).encode())
            raise RequestError(429, "rate_limited", "too many requests from this address", (retry_after,))
        if request.wants_upgrade and (request.header(b"upgrade") or b"").lower() == b"websocket":
            raise RequestError(
                501,
                "websocket_unsupported",
                "a WebSocket cannot be paid per request; use HTTP, streams included",
                ((b"connection", b"close"),),
            )

    async def _route(self, request: Request, send: Exchange) -> None:
        path = request.path
        self._bound(request)
        if path in OWN_PATHS or path.startswith(LOOK_UP_PREFIX):
            await self._own.answer(request, send)
            return
        self.requests_total += 1
        if request.method == "OPTIONS" and self._routes.is_listed(path):
            requested = request.header(b"access-control-request-headers")
            await respond_preflight(send, self._routes.methods_at(path), requested)
            return
        offer = self._routes.resolve(request.method, path, request.raw_path)
        if isinstance(offer, Priced):
            send.route = offer.route.label
            await self._paid.serve(offer.route, request, send)
        else:
            send.route = offer.label
            await self._free.serve(offer.label, request, send)
