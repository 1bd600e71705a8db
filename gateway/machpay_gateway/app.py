"""The application: which part answers a request. No decisions about money here."""

from machpay_gateway.answers import respond_preflight, respond_problem
from machpay_gateway.errors import RequestError
from machpay_gateway.free import FreeExchanges
from machpay_gateway.limits import RateLimit, rate_limited
from machpay_gateway.logs import REQUEST_ID
from machpay_gateway.metrics import Metrics
from machpay_gateway.own import OwnEndpoints
from machpay_gateway.paid import PaidExchanges
from machpay_gateway.reply import Reply
from machpay_gateway.request import ClientGone, Request
from machpay_gateway.routes import LOOK_UP_PREFIX, OWN_PATHS, Priced, RouteTable
from machpay_gateway.settings import LimitsSection
from machpay_gateway.telemetry.traffic import Traffic


class GatewayApp:
    """One gateway. `requests_total` counts what it answered, its own endpoints left out."""

    def __init__(
        self,
        routes: RouteTable,
        own: OwnEndpoints,
        free: FreeExchanges,
        paid: PaidExchanges,
        metrics: Metrics,
        traffic: Traffic,
        limits: LimitsSection,
    ) -> None:
        self._routes = routes
        self._rate = RateLimit(limits.rate_per_s, limits.rate_burst, limits.max_addresses)
        self._own = own
        self._free = free
        self._paid = paid
        self._metrics = metrics
        self._traffic = traffic
        self.requests_total = 0

    async def __call__(self, request: Request, reply: Reply) -> None:
        REQUEST_ID.set(request.request_id.decode())
        self._metrics.in_flight += 1
        try:
            await self._route(request, reply)
        except RequestError as error:
            await respond_problem(reply, error)
        except ClientGone:
            pass
        finally:
            self._metrics.in_flight -= 1
            self._traffic.answered(reply)

    def _bound(self, request: Request) -> None:
        """Refuse what costs too much before anything is computed for it. Raises 429, 501."""
        wait_s = self._rate.take(request.client_host or "")
        if wait_s and request.path != "/health":
            self._metrics.requests.add(1, "limited", "")
            raise rate_limited(wait_s)
        if request.wants_web_socket:
            raise RequestError(
                501,
                "websocket_unsupported",
                "a WebSocket cannot be paid per request; use HTTP, streams included",
                ((b"connection", b"close"),),
            )

    async def _route(self, request: Request, reply: Reply) -> None:
        path = request.path
        self._bound(request)
        if path in OWN_PATHS or path.startswith(LOOK_UP_PREFIX):
            await self._own.answer(request, reply)
            return
        self.requests_total += 1
        if request.method == "OPTIONS" and self._routes.is_listed(path):
            requested = request.header(b"access-control-request-headers")
            await respond_preflight(reply, self._routes.methods_at(path), requested)
            return
        offer = self._routes.resolve(request.method, path, request.raw_path)
        if isinstance(offer, Priced):
            reply.route = offer.route.label
            await self._paid.serve(offer.route, request, reply)
        else:
            reply.route = offer.label
            await self._free.serve(offer.label, request, reply)
