"""What a scheme of the stock client may sign, and what it learns from answers: the rules of `machpay.client`
without its HTTP.

The stock client sends the requests; a scheme sees neither method, URL nor body. It signs for the request hash of the
402, keeps the same totals, budgets and receipts as our own client, and follows corrections as far as they are proven,
so that both may pay with one key at the same time.
"""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from machpay.chain.client import ChainClient
from machpay.client.book import ChannelBook
from machpay.client.budgets import Proposal
from machpay.client.channels import Channel
from machpay.client.config import MachPayConfig
from machpay.client.errors import (
    ConfigError,
    GatewayExposureError,
    GatewayMismatchError,
    PriceTooHighError,
)
from machpay.client.orders import Order, authorise, check_receipt
from machpay.client.spending import Spending
from machpay.client.store import state_path
from machpay.client.terms import mismatch
from machpay.client.vendors import Vendors
from machpay.protocol.encoding import parse_hex
from machpay.protocol.errors import MalformedError, RefusalCode
from machpay.protocol.offers import Offer
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.x402 import (
    Correction,
    InnerPayload,
    Requirements,
    inner_payload,
    parse_correction,
    parse_terms,
)

MAX_OPEN: Final = 4096
MAX_RECOVERING: Final = 64
USDC_DECIMALS: Final = 6

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A payment without an answer yet, and what its call has authorised with it."""

    order: Order
    growth: int


@dataclass(frozen=True, slots=True)
class _Recovery:
    """A payment that may be made once more, for the same requirements (the very object): what its call has
    authorised so far, and the request hash to sign if it is another one now."""

    requirements: object
    growth: int
    request_hash: bytes | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer says about a payment. `extra` is that of `PAYMENT-RESPONSE` or of the new 402."""

    code: str | None
    extra: Mapping[str, object]


class Wallet:
    """One agent's side of the stock client. Safe to use from several threads.

    The configuration's allow-list of origins cannot be kept, because a scheme is not shown where a request goes:
    `ConfigError`.
    """

    def __init__(self, config: MachPayConfig) -> None:
        if config.budgets.allowed_origins is not None:
            raise ConfigError("a stock x402 client shows no URLs: use allowed_vendors, not allowed_origins")
        self.config = config
        self._book = ChannelBook(config, None)
        folder = config.state_dir
        path = None if folder is None else state_path(folder, config.key.pubkey, config.network, "spent.json")
        self._spending = Spending(config.budgets, config.key.pubkey, path)
        self._vendors = Vendors(config.budgets, None)
        self._orders: OrderedDict[bytes, _Sent] = OrderedDict()
        self._recovering: deque[_Recovery] = deque(maxlen=MAX_RECOVERING)
        self._lock = threading.RLock()

    def knows_asset(self, asset: str, network: str) -> bool:
        """Whether this is the token of the configured network."""
        return asset == str(self.config.network.mint) and network == self.config.network.caip2

    def proposal(self, requirements: Requirements, url: str, of: object) -> Proposal | None:
        """What the approval callback is to be asked before this is paid; None if it need not be asked, or was asked
        when the same requirements (the very object `of`) were paid first."""
        offer = self._offer(requirements, url)
        with self._lock:
            is_repeated = any(recovery.requirements is of for recovery in self._recovering)
        if is_repeated or not self.config.budgets.asks_about(offer.amount):
            return None
        return Proposal(url, "", offer.amount, str(offer.gateway), str(offer.vendor))

    def needs_vendor(self, requirements: Requirements, url: str) -> Offer | None:
        """The offer whose gateway's vendor has to be read with `check_vendor` before it is paid; None if it is known or
        does not matter."""
        offer = self._offer(requirements, url)
        return None if self._vendors.is_known(offer.gateway, offer.vendor) else offer

    async def check_vendor(self, offer: Offer, url: str) -> None:
        """Raises `GatewayMismatchError`, `NotAllowedError`."""
        if self.config.rpc_url is None:
            await self._vendors.check(url, offer.gateway, offer.vendor)
            return
        async with ChainClient(self.config.rpc_url, self.config.network) as chain:
            await self._vendors.check(url, offer.gateway, offer.vendor, chain)

    def pay(self, requirements: Requirements, of: object) -> InnerPayload:
        """Sign a payment. `of` is the stock client's own object of these requirements: a recovery comes with the same
        one. Raises `GatewayMismatchError`, `PriceTooHighError`, `BudgetError`s, `GatewayExposureError`."""
        offer, now = self._offer(requirements, "the 402"), time.time()
        vendor = str(offer.vendor)
        with self._lock:
            recovery = self._take_recovery(of)
            spent = 0 if recovery is None else recovery.growth
            if recovery is not None and recovery.request_hash is not None:
                offer = replace(offer, request_hash=recovery.request_hash)

            def grant(least: int, wanted: int) -> int:
                return self._spending.take(vendor, least=least, wanted=wanted, spent_in_call=spent, now=now)

            channel = self._book.channel(offer.gateway)
            order = authorise(channel, offer, offer.request_hash, now, grant)
            self._orders[order.digest] = _Sent(order, spent + order.growth)
            if len(self._orders) > MAX_OPEN:
                self._orders.popitem(last=False)
            self._save_if_due()
            return inner_payload(
                self.config.key.public, offer.gateway, order.intent, order.intent.sign(self.config.key)
            )

    def needs_watermark(self, payload: Mapping[str, Any], answer: Answer) -> Channel | None:
        """The channel whose watermark on chain decides whether a correction can be followed; None if it does not
        matter."""
        correction = _correction(answer)
        if answer.code != RefusalCode.CUMULATIVE_TOO_LOW or correction is None or not self.config.rpc_url:
            return None
        return None if correction.voucher is not None else self._channel_of(payload)

    def answered(self, payload: Mapping[str, Any], of: object, answer: Answer, watermark: int = 0) -> bool:
        """Take the answer to a payment into account; True if paying once more can help.

        Raises `GatewayExposureError` when a gateway claims more than it proves. A receipt that is not valid is
        logged and the payment stays counted until its deadline: the answer itself belongs to the caller.
        """
        with self._lock:
            channel = self._channel_of(payload)
            sent = None if channel is None else self._orders.pop(self._digest(payload, channel), None)
            if channel is None or sent is None:
                return False
            order = sent.order
            if answer.code is None or ("receipt" in answer.extra and "committedTotal" not in answer.extra):
                self._count(channel, order, answer)
                return False
            if answer.code == RefusalCode.CUMULATIVE_TOO_LOW:
                channel.too_low(order.digest)
                self._correct(channel, answer, watermark)
                growth = sent.growth - self._spending.forgive(channel, order, time.time())
                self._recovering.append(_Recovery(of, growth, None))
                return True
            if answer.code == RefusalCode.NONCE_REPLAYED:
                # Another copy of these bytes was accepted: they stay counted until their deadline.
                return False
            channel.refused(order.digest)
            bound = _request_hash(answer)
            if answer.code != RefusalCode.REQUEST_MISMATCH or bound in (None, order.intent.request_hash):
                return False
            self._recovering.append(_Recovery(of, sent.growth, bound))
            return True

    def save(self) -> None:
        """Write the totals down, if there is a place for them."""
        with self._lock:
            self._book.save()

    def _offer(self, requirements: Requirements, url: str) -> Offer:
        try:
            offer = Offer.from_requirements(requirements)
        except MalformedError as error:
            raise GatewayMismatchError(url, error.detail) from error
        problem = mismatch(offer, self.config.network)
        if problem is not None:
            raise GatewayMismatchError(url, problem)
        if offer.amount > self.config.max_price_atomic:
            raise PriceTooHighError(url, offer.amount, self.config.max_price_atomic)
        self.config.budgets.check_vendor(url, str(offer.vendor))
        return offer

    def _take_recovery(self, of: object) -> _Recovery | None:
        for recovery in self._recovering:
            if recovery.requirements is of:
                self._recovering.remove(recovery)
                return recovery
        return None

    def _channel_of(self, payload: Mapping[str, Any]) -> Channel | None:
        terms = parse_terms(msgspec.convert(dict(payload), InnerPayload))
        return self._book.channel(terms.gateway) if terms.agent == self.config.key.public else None

    def _digest(self, payload: Mapping[str, Any], channel: Channel) -> bytes:
        return parse_terms(msgspec.convert(dict(payload), InnerPayload)).intent(channel.address).digest

    def _count(self, channel: Channel, order: Order, answer: Answer) -> None:
        if answer.extra.get("pending") is True:
            # A metered stream is charged at its end, which a scheme does not see: its ceiling stays counted until the
            # deadline, and the next answer has the total.
            return
        try:
            receipt = SignedReceipt.from_json(answer.extra.get("receipt"))
            check_receipt(receipt, order)
        except MalformedError as error:
            logger.warning("payment %s at %s: %s", order.digest.hex(), order.offer.gateway, error.detail)
            return
        self._book.count(channel, receipt)

    def _correct(self, channel: Channel, answer: Answer, watermark: int) -> None:
        correction = _correction(answer)
        if correction is not None:
            raw = answer.extra.get("receipt")
            try:
                receipt = None if raw is None else SignedReceipt.from_json(raw)
            except MalformedError:
                receipt = None
            if channel.correct(correction, receipt, watermark):
                return
        raise GatewayExposureError(
            str(channel.gateway),
            signed=channel.signed,
            served=channel.served,
            claimed=0 if correction is None else correction.committed_total,
            detail="it asks for more than it can prove to be committed",
        )

    def _save_if_due(self) -> None:
        """Also when no receipt ever comes: what is signed is what matters to the next process."""
        self._book.save_if_due()


async def read_watermark(config: MachPayConfig, channel: Channel) -> int:
    """What the chain has settled on the channel; 0 if that cannot be known."""
    assert config.rpc_url is not None
    async with ChainClient(config.rpc_url, config.network) as chain:
        return await ChannelBook(config, chain).watermark(channel)


def _correction(answer: Answer) -> Correction | None:
    try:
        return parse_correction(answer.extra)
    except MalformedError:
        return None


def _request_hash(answer: Answer) -> bytes | None:
    try:
        return parse_hex(answer.extra.get("requestHash"), "requestHash", 32)
    except MalformedError:
        return None
