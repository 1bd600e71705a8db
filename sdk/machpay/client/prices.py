"""What this agent knows of routes and gateways: the offers it has seen and checked, and whose origin is whose.

Bounded; forgetting costs one more round trip.
"""

from collections import OrderedDict

import httpx
from solders.pubkey import Pubkey

from machpay.client.config import MachPayConfig
from machpay.client.errors import GatewayMismatchError
from machpay.client.terms import (
    MAX_CACHED_ROUTES,
    Call,
    Challenge,
    check_binding,
    check_gateway,
    choose_offer,
    origin_of,
)
from machpay.protocol.errors import MalformedError
from machpay.protocol.x402 import REQUIRED_HEADER, PaymentRequired, decode_required


class Prices:
    """The last challenge of every route, and the gateway of every origin."""

    def __init__(self, config: MachPayConfig) -> None:
        self._network = config.network
        self._challenges: OrderedDict[tuple[str, str, bytes, bool], Challenge] = OrderedDict()
        self._gateways = {origin_of(origin): Pubkey.from_string(key) for origin, key in config.pinned.items()}

    def gateway_of(self, origin: str) -> Pubkey | None:
        """The key this origin is pinned to, if it is known."""
        return self._gateways.get(origin)

    def known(self, call: Call) -> Challenge | None:
        """What the call's route asked for last."""
        return self._challenges.get(call.route)

    def forget(self, call: Call) -> None:
        """What we knew of the route no longer holds."""
        self._challenges.pop(call.route, None)

    def learn(self, answer: httpx.Response, call: Call) -> Challenge:
        """The challenge in a 402, checked and remembered. Raises `GatewayMismatchError`."""
        try:
            required = decode_required(answer.headers[REQUIRED_HEADER])
        except KeyError as error:
            raise GatewayMismatchError(call.url, f"its 402 has no {REQUIRED_HEADER}") from error
        except MalformedError as error:
            raise GatewayMismatchError(call.url, error.detail) from error
        return self.accept(required, call)

    def accept(self, required: PaymentRequired, call: Call) -> Challenge:
        """The offer this agent can stand for; it becomes the route's. Raises `GatewayMismatchError`."""
        offer = choose_offer(required, self._network, call)
        check_gateway(offer, self._gateways.get(call.origin), call)
        check_binding(offer, call)
        self._gateways[call.origin] = offer.gateway
        challenge = self._challenges[call.route] = Challenge(offer, required.extensions)
        if len(self._challenges) > MAX_CACHED_ROUTES:
            self._challenges.popitem(last=False)
        return challenge
