"""What a metered answer costs: the upstream names the amount, never above the ceiling that was offered and signed.

    1. the header `MachPay-Amount` of the answer
    2. the trailer of that name behind a stream
    3. the route's `amount_url`, asked when the answer is there
    4. nothing named: the ceiling

An amount that was named and cannot be read, or a look-up that fails, charges nothing: nobody pays for what is not
known.
"""

import asyncio
import logging
from typing import Final

import msgspec

from machpay.protocol.encoding import decode_json
from machpay.protocol.errors import MalformedError
from machpay_gateway.errors import UpstreamError
from machpay_gateway.headers import AMOUNT
from machpay_gateway.payments import Ticket
from machpay_gateway.routes import Route
from machpay_gateway.upstream import Upstream, UpstreamAnswer

LOOK_UP_S: Final = 5.0
"""How long a look-up may take, all attempts together."""
ATTEMPTS: Final = 3
_PAUSE_S: Final = 0.2
_MAX_DIGITS: Final = 20

logger = logging.getLogger(__name__)


class _Usage(msgspec.Struct):
    """What `amount_url` answers."""

    amount_atomic: int


_decoder = msgspec.json.Decoder(_Usage)


class Metering:
    """Finds the amount of one answer."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def amount(self, answer: UpstreamAnswer, ticket: Ticket, route: Route, digest: bytes) -> int:
        """Atomic units, 0 to the ticket's price. After the answer was read to its end."""
        named = answer.header(AMOUNT)
        if named is None:
            named = answer.trailer(AMOUNT)
        if named is not None:
            return self._bounded(parse_amount(named), named, ticket, route)
        if not route.amount_url:
            return ticket.price
        try:
            async with asyncio.timeout(LOOK_UP_S):
                return self._bounded(await self._ask(route.amount_url, digest), b"", ticket, route)
        except TimeoutError:
            logger.error("%s: payment %s is not charged: amount_url is too slow", route.label, digest.hex())
            return 0

    async def _ask(self, amount_url: str, digest: bytes) -> int | None:
        target = amount_url.replace("{digest}", digest.hex())
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(_PAUSE_S)
            try:
                status, body = await self._upstream.get(target)
                if status == 200:
                    usage: _Usage = decode_json(_decoder, body, "not an amount")
                    return usage.amount_atomic
                logger.warning("%s answers %d", target, status)
            except (UpstreamError, MalformedError) as error:
                logger.warning("%s: %s", target, error)
        return None

    def _bounded(self, amount: int | None, named: bytes, ticket: Ticket, route: Route) -> int:
        if amount is None or amount < 0:
            logger.error("%s: payment %d is not charged: no amount in %r", route.label, ticket.number, named)
            return 0
        if amount > ticket.price:
            logger.warning("%s: %d is above the ceiling of %d", route.label, amount, ticket.price)
        return min(amount, ticket.price)


def parse_amount(value: bytes) -> int | None:
    """The amount in a header or trailer, None if it is not a decimal number of atomic units."""
    text = value.strip()
    return int(text) if text.isdigit() and len(text) <= _MAX_DIGITS else None
