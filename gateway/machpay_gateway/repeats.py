"""Payments that were offered before: by the same bytes, or by another payment under the same identifier. Nothing here
charges anybody.

    same payment        the answer it got; while it is in flight, wait for it
    same identifier     the answer of the payment that has it; the new payment is taken for nothing, so that its voucher
                        counts; another request under the identifier is a conflict
    answer not kept     409 with the receipt
"""

from typing import Final

import msgspec

from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.screening import Attempt
from machpay_gateway import headers as names
from machpay_gateway.admission import Asked
from machpay_gateway.answers import outcome_header, problem
from machpay_gateway.bindings import was_served
from machpay_gateway.decide import Earlier
from machpay_gateway.errors import RequestError
from machpay_gateway.metrics import Metrics
from machpay_gateway.payments import Payments
from machpay_gateway.reply import Reply
from machpay_gateway.responses import Kept, Responses
from machpay_gateway.settings import Settings

REPEATED: Final = (b"machpay-repeated", b"true")
"""Marks an answer that was given before."""


class Repeats:
    """Answers what was paid before."""

    def __init__(
        self, settings: Settings, payments: Payments, responses: Responses, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._network = settings.network.caip2
        self._payments = payments
        self._responses = responses
        self._metrics = metrics

    async def answer_known(self, digest: bytes, attempt: Attempt, asked: Asked, reply: Reply) -> bool:
        """Answer a payment that is in flight or was completed; False if it is to be judged like any other.

        Only for the request it was made for, and for who knows its signature.
        """
        flying = self._payments.flying(digest)
        if flying is not None:
            if flying.signature != attempt.signature or flying.request_hash != asked.request_hash:
                return False
            await self._wait(digest)
        kept = self._responses.find(digest)
        if kept is not None:
            if kept.signature != attempt.signature or kept.request_hash != asked.request_hash:
                return False
            await self._respond(kept, asked, reply)
            return True
        receipt = self._payments.find(digest).receipt
        if receipt is None or attempt.intent.request_hash != asked.request_hash or not _is_served(receipt):
            return False
        await self._gone(receipt, attempt, asked, reply)
        return True

    async def answer_earlier(self, earlier: Earlier, attempt: Attempt, asked: Asked, reply: Reply) -> bool:
        """Answer a payment whose identifier another one has; False if that one came to nothing, and this may be judged
        again. The attempt's signature was verified.

        Raises `RequestError`: 409 for another request and for a payment that stays in flight too long, 429 for too
        many.
        """
        if not earlier.same_request:
            raise RequestError(
                409, "identifier_conflict", "this payment identifier stands for another request"
            )
        if earlier.receipt is None:
            await self._wait(earlier.digest)
            return False
        if not self._payments.accept_repeat(attempt):
            raise RequestError(429, "too_many_repeats", "this payment identifier was used too often")
        kept = self._responses.find(earlier.digest)
        if kept is None:
            await self._gone(earlier.receipt, attempt, asked, reply)
        else:
            await self._respond(kept, asked, reply)
        return True

    async def _wait(self, digest: bytes) -> None:
        if not await self._responses.wait(digest, self._settings.responses.wait_s):
            raise RequestError(
                409, "payment_pending", "this payment is still being served", ((b"retry-after", b"5"),)
            )

    async def _respond(self, kept: Kept, asked: Asked, reply: Reply) -> None:
        self._metrics.requests.add(1, "repeated", asked.route.label)
        await reply.whole(kept.status, [*kept.headers, REPEATED], kept.body)

    async def _gone(self, receipt: SignedReceipt, attempt: Attempt, asked: Asked, reply: Reply) -> None:
        """409: it was paid and served, and the answer is no longer here. With the receipt."""
        self._metrics.requests.add(1, "repeated", asked.route.label)
        error = RequestError(
            409, "response_gone", "this was paid and served before; the answer is no longer kept"
        )
        header = outcome_header(self._network, str(attempt.agent), receipt)
        status, lines, body = problem(error, [(names.RESPONSE, header), REPEATED])
        fields = {**msgspec.json.decode(body), "receipt": receipt.to_json()}
        await reply.whole(status, lines, msgspec.json.encode(fields))


def _is_served(receipt: SignedReceipt) -> bool:
    return was_served(receipt.receipt.http_status, receipt.receipt.charged)
