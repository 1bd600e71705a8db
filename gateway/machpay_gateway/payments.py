"""The gateway's payments: the only writer of the book and its log. Accept, resolve, mark as sent.

Every method but `durable` works without awaiting, so that a decision and the reservation it allows are one step.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final, Literal

import msgspec
from solders.pubkey import Pubkey

from machpay.protocol.intents import Voucher
from machpay.protocol.receipts import Receipt, SignedReceipt
from machpay.protocol.screening import Attempt
from machpay.protocol.x402 import Correction
from machpay_gateway.bindings import was_served
from machpay_gateway.book import Book, Channel, receipt_of
from machpay_gateway.decide import Credit, Earlier, Standing
from machpay_gateway.log.join import OpenPayment
from machpay_gateway.log.journal import Journal
from machpay_gateway.log.records import Accept, ChannelTotals, Identified, Outcome, Sent
from machpay_gateway.settings import Settings

RECENT_PAYMENTS: Final = 20_000
"""How many completed payments the look-up by digest remembers."""
LOST_STATUS: Final = 503
"""The status in the receipt of a payment whose answer was never sent because the gateway stopped."""

MAX_REPEATS: Final = 100
"""How many payments under one identifier are taken for nothing."""
REPEATED_STATUS: Final = 409
"""The status in the receipt of a payment that was taken for nothing because its identifier had been used."""

PaymentState = Literal["served", "void", "unknown"]


class Ticket(msgspec.Struct, frozen=True):
    """One accepted payment on its way: what the exchange needs to resolve it. `accepted_at` is the place in the log
    behind its accept record and its identifier."""

    payment: OpenPayment
    channel: Channel
    digest: bytes
    accepted_at: int = 0

    @property
    def number(self) -> int:
        return self.payment.accept.number

    @property
    def price(self) -> int:
        return self.payment.accept.price


@dataclass(frozen=True, slots=True)
class Found:
    """What the look-up by digest answers. `remembers_s` is how far back it knows every payment that was completed: what
    is older may have been forgotten."""

    state: PaymentState
    in_flight: bool
    receipt: SignedReceipt | None
    remembers_s: float


class Payments:
    """Owns the book and its journal."""

    def __init__(self, settings: Settings, book: Book, journal: Journal) -> None:
        self._key = settings.key
        self._cap = settings.solvency.cap_atomic
        self.book = book
        self.journal = journal
        self._recent: OrderedDict[bytes, Outcome] = OrderedDict()
        self._known_since = 0.0
        """Unix seconds: everything that was completed later is in `_recent`."""
        self._in_flight: dict[bytes, int] = {}

    # --- Start ------------------------------------------------------------------------------------------------------

    async def start(self) -> int:
        """Recover from the log and make it writable. Returns how many payments a crash had left open.

        A payment whose answer had started keeps its charge; the others become void, because nobody can know that
        they were served. Raises `LogError` and its kinds.
        """
        self.journal.recover(self._remember)
        self._known_since = max(self._known_since, self._log_begins())
        left_open = list(self.book.join.open.values())
        for payment in left_open:
            ticket = Ticket(payment, self.book.channel(payment.accept.agent), self.book.digest(payment))
            if payment.sent and payment.outcome is not None:
                self.confirm(ticket, payment.outcome)
            else:
                self.resolve(ticket, LOST_STATUS, 0, final=True)
                self.sent(ticket)
        await self.journal.start()
        return len(left_open)

    def _log_begins(self) -> float:
        """Unix seconds from which on the log has every payment."""
        if not self.journal.segments:
            return time.time()
        # Of what was completed before a later segment nothing may be left; its time has lost the fraction.
        first = self.journal.segments[0]
        return first.created_at if first.number == 1 else first.created_at + 1

    # --- One payment ------------------------------------------------------------------------------------------------

    def standing(self, attempt: Attempt, credit: Credit | None) -> Standing:
        """The agent's standing for `decide`, as it is now."""
        channel = self.book.channels.get(attempt.agent)
        return Standing(
            highest=0 if channel is None else channel.highest,
            served=0 if channel is None else channel.served,
            reserved=0 if channel is None else channel.reserved,
            nonce_seen=self.is_known(attempt),
            credit=credit,
            cap=self._cap,
            earlier=None if attempt.identifier is None else self._earlier(attempt, attempt.identifier),
        )

    def accept(self, attempt: Attempt, price: int, digest: bytes | None = None) -> Ticket:
        """Reserve `price` for a payment that was just decided to be forwarded. `digest` is its intent's, if the caller
        has it. A price of 0 is for a payment that is not going to be served; it takes no identifier."""
        intent = attempt.intent
        number = self.book.next_number
        self.journal.append(
            Accept(
                number=number,
                agent=attempt.agent,
                amount=intent.amount,
                cumulative=intent.cumulative,
                price=price,
                deadline=intent.deadline,
                accepted_at=int(time.time()),
                nonce=intent.nonce,
                request_hash=intent.request_hash,
                signature=attempt.signature,
            )
        )
        payment = self.book.join.open[number]
        payment.digest = digest = intent.digest if digest is None else digest
        self._in_flight[digest] = number
        if attempt.identifier is not None and price:
            self.journal.append(Identified(number, attempt.identifier))
        return Ticket(payment, self.book.channel(attempt.agent), digest, self.journal.appended)

    def resolve(self, ticket: Ticket, http_status: int, charged: int, *, final: bool) -> SignedReceipt:
        """Charge `charged` (0: void) and sign the receipt. One that is not `final` may be replaced."""
        payment, channel = ticket.payment, ticket.channel
        receipt = Receipt(
            digest=ticket.digest,
            http_status=http_status,
            charged=charged,
            served_total=channel.served - payment.charged + charged,
            time=int(time.time()),
        ).sign(self._key)
        outcome = Outcome(
            number=ticket.number,
            final=final,
            http_status=http_status,
            charged=charged,
            served_total=receipt.receipt.served_total,
            time=receipt.receipt.time,
            receipt_signature=receipt.signature,
        )
        self._completed(self.journal.append(outcome))
        return receipt

    def confirm(self, ticket: Ticket, outcome: Outcome) -> None:
        """Make an outcome final as it is: the receipt stays the one that the client holds."""
        self._completed(self.journal.append(msgspec.structs.replace(outcome, final=True)))

    def sent(self, ticket: Ticket) -> None:
        """The answer's first byte is on its way, or the exchange has ended."""
        self._completed(self.journal.append(Sent(ticket.number)))

    def hasten(self) -> None:
        """Somebody will wait for what was accepted: see `Journal.hasten`."""
        self.journal.hasten()

    async def durable(self, ticket: Ticket | None = None) -> None:
        """Wait until a payment's acceptance, or everything so far, is on the disk. Raises `LogUnavailable`."""
        await self.journal.durable(None if ticket is None else ticket.accepted_at)

    # --- Channels ---------------------------------------------------------------------------------------------------

    def align(self, agent: Pubkey, credit: Credit) -> None:
        """Raise the channel to what relayer and chain know of it, for a gateway that lost its log.

        A channel the log does not know starts at the highest of relayer and chain. One that it knows follows the
        relayer only: the chain's watermark may be ahead of the charges through a claim, and later charges use that up.
        """
        channel = self.book.channels.get(agent)
        known = channel is not None
        served = credit.charged_total if known else max(credit.charged_total, credit.settled)
        highest = 0 if credit.voucher is None else credit.voucher.cumulative
        if channel is not None and served <= channel.served and highest <= channel.highest:
            return
        if served == 0 and highest == 0:
            return
        proven = credit.voucher is not None and highest >= served
        self.journal.append(
            ChannelTotals(
                agent=agent,
                highest=max(highest, served),
                context=credit.voucher.context if proven and credit.voucher is not None else None,
                signature=credit.voucher.signature if proven and credit.voucher is not None else None,
                served=served,
                receipt=None,
            )
        )

    def correction(self, agent: Pubkey) -> tuple[Correction, SignedReceipt | None]:
        """What a client needs whose cumulative was too low: the committed total, its proof, the latest receipt."""
        channel = self.book.channels.get(agent)
        if channel is None:
            return Correction(0, None), None
        return Correction(channel.committed, channel.voucher), channel.receipt

    def voucher(self, agent: Pubkey) -> Voucher | None:
        """The highest voucher held of `agent`."""
        channel = self.book.channels.get(agent)
        return None if channel is None else channel.voucher

    # --- Look-up ----------------------------------------------------------------------------------------------------

    def find(self, digest: bytes) -> Found:
        """What is known of a payment by its digest: in flight, or one of the recently completed."""
        remembers_s = max(0.0, round(time.time() - self._known_since, 3))
        outcome = self._recent.get(digest)
        if outcome is not None:
            state: PaymentState = "served" if was_served(outcome.http_status, outcome.charged) else "void"
            return Found(state, False, receipt_of(digest, outcome), remembers_s)
        return Found("unknown", digest in self._in_flight, None, remembers_s)

    def is_known(self, attempt: Attempt) -> bool:
        """Whether a payment with this nonce was accepted before. Behind the guard's floor nobody remembers any more:
        possible only if the clock stepped back."""
        guard, intent = self.book.guard, attempt.intent
        return intent.deadline <= guard.floor or guard.has(attempt.agent, intent.nonce)

    def accept_repeat(self, attempt: Attempt) -> bool:
        """Take a payment for nothing whose identifier another one has; False if there were too many of them.

        Its voucher counts and its nonce is used up. Each costs the log and the relayer a record, so they are bounded.
        """
        binding = None
        if attempt.identifier is not None:
            binding = self.book.bindings.get(attempt.agent, attempt.identifier)
        if self.is_known(attempt):
            return True
        if binding is None or binding.repeats >= MAX_REPEATS:
            return False
        binding.repeats += 1
        ticket = self.accept(attempt, 0)
        self.resolve(ticket, REPEATED_STATUS, 0, final=True)
        self.sent(ticket)
        return True

    def flying(self, digest: bytes) -> Accept | None:
        """The accept record of a payment that is in flight."""
        number = self._in_flight.get(digest)
        payment = None if number is None else self.book.join.open.get(number)
        return None if payment is None else payment.accept

    def _earlier(self, attempt: Attempt, identifier: str) -> Earlier | None:
        binding = self.book.bindings.get(attempt.agent, identifier)
        if binding is None:
            return None
        same_request = binding.request_hash == attempt.intent.request_hash
        return Earlier(binding.digest, same_request, binding.receipt)

    def _completed(self, payment: OpenPayment | None) -> None:
        if payment is not None:
            self._in_flight.pop(self.book.digest(payment), None)
            self._remember(payment)

    def _remember(self, payment: OpenPayment) -> None:
        if payment.outcome is None:
            return
        self._recent[self.book.digest(payment)] = payment.outcome
        if len(self._recent) > RECENT_PAYMENTS:
            _, forgotten = self._recent.popitem(last=False)
            self._known_since = max(self._known_since, forgotten.time + 1)
