"""What the gateway knows about every agent, in memory. Changed only by log records, the same way live and after a
crash, so that replaying the log gives exactly this book again.

Invariant per channel: served + reserved <= highest. No I/O here, and no decisions: see `decide`.
"""

from solders.pubkey import Pubkey

from machpay.chain.network import Network
from machpay.protocol.intents import PaymentIntent, Voucher
from machpay.protocol.receipts import Receipt, SignedReceipt
from machpay_gateway.bindings import Binding, Bindings
from machpay_gateway.log.join import Join, OpenPayment
from machpay_gateway.log.records import (
    Accept,
    ChannelTotals,
    Delivered,
    Header,
    Identified,
    Nonces,
    Outcome,
    Record,
    Sent,
)
from machpay_gateway.replay import ReplayGuard


class Channel:
    """One agent's standing at this gateway, in atomic units.

    `highest` is the highest cumulative seen and `voucher` its proof (None when the chain's watermark is the
    proof), `served` the sum of charges, `reserved` what is accepted and unresolved, `receipt` the latest one
    issued (of those with the highest served_total). `open` counts the payments that are not complete,
    `last_seq` is the place in the log of the last one that is.
    """

    __slots__ = (
        "_raised_by",
        "_receipt",
        "_shown_by",
        "_voucher",
        "address",
        "agent",
        "agent_text",
        "highest",
        "last_seq",
        "open",
        "reserved",
        "served",
    )

    def __init__(self, agent: Pubkey, address: Pubkey) -> None:
        self.agent = agent
        self.agent_text = str(agent)
        self.address = address
        self.highest = 0
        self.served = 0
        self.reserved = 0
        self.open = 0
        self.last_seq = 0
        # Proofs are asked for now and then and replaced by every payment, so they are built when they are asked for.
        self._voucher: Voucher | None = None
        self._raised_by: Accept | None = None
        self._receipt: SignedReceipt | None = None
        self._shown_by: tuple[bytes, Outcome] | None = None

    @property
    def committed(self) -> int:
        """served + reserved: what a new payment's cumulative has to cover besides its own price."""
        return self.served + self.reserved

    @property
    def voucher(self) -> Voucher | None:
        """The proof of `highest`, None when the chain's watermark is the proof."""
        accept = self._raised_by
        if accept is not None:
            self._voucher, self._raised_by = _intent(accept, self.address).voucher(accept.signature), None
        return self._voucher

    @property
    def receipt(self) -> SignedReceipt | None:
        """The one that shows the most service: it is what a client may reduce its exposure by."""
        if self._shown_by is not None:
            self._receipt, self._shown_by = receipt_of(*self._shown_by), None
        return self._receipt

    def raise_by(self, accept: Accept) -> None:
        """Take the total of an accepted payment as the highest, if it is."""
        if accept.cumulative > self.highest:
            self.highest, self._raised_by = accept.cumulative, accept

    def raise_to(self, highest: int, voucher: Voucher | None) -> None:
        """Take a total that relayer or chain know of as the highest, if it is."""
        if highest > self.highest:
            self.highest, self._voucher, self._raised_by = highest, voucher, None

    def show(self, digest: bytes, outcome: Outcome) -> None:
        """Keep the receipt of an outcome, unless an earlier one shows more service."""
        if self._shown_by is not None:
            shown = self._shown_by[1].served_total
        else:
            shown = -1 if self._receipt is None else self._receipt.receipt.served_total
        if outcome.served_total >= shown:
            self._shown_by = (digest, outcome)

    def show_again(self, receipt: SignedReceipt) -> None:
        """Keep a receipt as it was."""
        self._receipt, self._shown_by = receipt, None


def receipt_of(digest: bytes, outcome: Outcome) -> SignedReceipt:
    """The receipt that an outcome record of the payment `digest` stands for."""
    unsigned = Receipt(
        digest=digest,
        http_status=outcome.http_status,
        charged=outcome.charged,
        served_total=outcome.served_total,
        time=outcome.time,
    )
    return SignedReceipt(unsigned, outcome.receipt_signature)


def _intent(accept: Accept, channel: Pubkey) -> PaymentIntent:
    return PaymentIntent(
        channel=channel,
        cumulative=accept.cumulative,
        nonce=accept.nonce,
        amount=accept.amount,
        deadline=accept.deadline,
        request_hash=accept.request_hash,
    )


class Book:
    """Every channel, every open payment, the replay guard and the counters of one gateway."""

    def __init__(self, network: Network, gateway: Pubkey, bindings: Bindings | None = None) -> None:
        """`bindings` is for who serves; a reader of the log needs none of its own limits."""
        self._network = network
        self._gateway = gateway
        self.bindings = Bindings(0, 0) if bindings is None else bindings
        self._clear()

    def _clear(self) -> None:
        self.channels: dict[Pubkey, Channel] = {}
        self.join = Join()
        self.guard = ReplayGuard()
        self.next_number = 1
        self.completed = 0
        self.delivered = 0

    def channel(self, agent: Pubkey) -> Channel:
        """The channel with `agent`, created empty when there is none yet."""
        channel = self.channels.get(agent)
        if channel is None:
            channel = self.channels[agent] = Channel(agent, self._network.channel(agent, self._gateway))
        return channel

    def committed(self, agent: Pubkey) -> int:
        """served + reserved of the agent's channel."""
        channel = self.channels.get(agent)
        return 0 if channel is None else channel.committed

    def open_payments(self, agent: Pubkey) -> int:
        """Payments of the agent's channel that are not complete."""
        channel = self.channels.get(agent)
        return 0 if channel is None else channel.open

    def last_seq(self, agent: Pubkey) -> int:
        """The place in the log of the channel's last completed payment, 0 if it has none."""
        channel = self.channels.get(agent)
        return 0 if channel is None else channel.last_seq

    def intent(self, accept: Accept) -> PaymentIntent:
        """The signed intent of an accept record."""
        return _intent(accept, self._network.channel(accept.agent, self._gateway))

    def digest(self, payment: OpenPayment) -> bytes:
        """The payment's id."""
        if payment.digest is None:
            payment.digest = self.intent(payment.accept).digest
        return payment.digest

    def receipt(self, payment: OpenPayment, outcome: Outcome) -> SignedReceipt:
        """The receipt that an outcome record stands for."""
        return receipt_of(self.digest(payment), outcome)

    def apply(self, record: Record) -> OpenPayment | None:
        """Take one record in; the payment it completed, if it did."""
        # The frequent kinds first: this is in the way of every payment.
        if isinstance(record, Accept):
            self._accept(record)
        elif isinstance(record, Outcome):
            self._outcome(record)
        elif not isinstance(record, Sent):
            self._apply_rare(record)
        payment = self.join.apply(record)
        if payment is not None:
            self.completed += 1
            payment.seq = self.completed
            channel = self.channel(payment.accept.agent)
            channel.open -= 1
            channel.last_seq = self.completed
            if payment.identifier is not None and payment.outcome is not None:
                self.bindings.complete(payment.accept.agent, payment.identifier, payment.outcome)
        return payment

    def _apply_rare(self, record: Record) -> None:
        match record:
            case Identified():
                self._identify(record)
            case ChannelTotals():
                self._raise(record)
            case Nonces(deadlines):
                self.guard.restore(deadlines)
            case Delivered(completed):
                self.delivered = max(self.delivered, completed)
            case Header():
                # A segment's snapshot is the whole truth at its start, whatever came before it. Identifiers are not
                # in it: the older segments are kept for them.
                self._clear()
                self.next_number = record.next_number
                self.completed = record.completed
                self.delivered = record.delivered
                self.guard.floor = record.guard_floor

    def _accept(self, accept: Accept) -> None:
        channel = self.channel(accept.agent)
        channel.raise_by(accept)
        channel.reserved += accept.price
        channel.open += 1
        self.guard.add(accept.agent, accept.nonce, accept.deadline)
        self.next_number = max(self.next_number, accept.number + 1)

    def _identify(self, record: Identified) -> None:
        payment = self.join.open.get(record.number)
        if payment is None:
            return
        accept = payment.accept
        binding = Binding(accept.number, self.digest(payment), accept.request_hash, accept.accepted_at)
        self.bindings.bind(accept.agent, record.identifier, binding)

    def _outcome(self, outcome: Outcome) -> None:
        payment = self.join.open.get(outcome.number)
        if payment is None:
            return
        channel = self.channel(payment.accept.agent)
        if payment.outcome is None:
            channel.reserved -= payment.accept.price
        else:
            channel.served -= payment.outcome.charged
        channel.served += outcome.charged
        channel.show(self.digest(payment), outcome)

    def _raise(self, totals: ChannelTotals) -> None:
        channel = self.channel(totals.agent)
        voucher = None
        if totals.context is not None and totals.signature is not None:
            voucher = Voucher(channel.address, totals.highest, totals.context, totals.signature)
        channel.raise_to(totals.highest, voucher)
        channel.served = max(channel.served, totals.served)
        # Where its own last payment was is not known any more: nowhere behind the last of all.
        channel.last_seq = self.completed
        if totals.receipt is not None:
            channel.show_again(totals.receipt)

    def totals(self, pending: list[OpenPayment]) -> list[ChannelTotals]:
        """Every channel for a snapshot. The charges of open payments and of `pending` ones (complete, not durable)
        are left out, because their own records follow the snapshot."""
        open_charges: dict[Pubkey, int] = {}
        for payment in (*self.join.open.values(), *pending):
            if payment.charged:
                agent = payment.accept.agent
                open_charges[agent] = open_charges.get(agent, 0) + payment.charged
        return [
            ChannelTotals(
                agent=channel.agent,
                highest=channel.highest,
                context=None if channel.voucher is None else channel.voucher.context,
                signature=None if channel.voucher is None else channel.voucher.signature,
                served=channel.served - open_charges.get(channel.agent, 0),
                receipt=channel.receipt,
            )
            for channel in self.channels.values()
        ]
