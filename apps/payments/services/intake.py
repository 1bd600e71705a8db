"""Storing resolved payments exactly once, and crediting them.

The primary key (nonce time, agent, nonce, channel) decides what an item is: the same digest again is a duplicate;
another digest on the same channel is refused for good, though its voucher counts; the same nonce on another channel is
stored and credited like any payment and recorded as an equivocation, which the agent's row lock makes impossible to
miss. Intents, channel totals, ledger and evidence commit together; the number of SQL statements grows with double
signings, not with items.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Final, Literal, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection, transaction
from django.utils import timezone
from solders.pubkey import Pubkey

from apps.core.arrays import binaries, integers, texts
from apps.ledger import chart
from apps.ledger.services import post
from apps.ledger.types import Transfer
from apps.payments.locks import hold_agents, lock_channels
from apps.payments.models import Channel, Equivocation, PaymentIntent
from apps.payments.services import equivocations, gateways
from apps.payments.services.gateways import LogPosition
from apps.payments.verification import Verified
from machpay.protocol.errors import RefusalCode
from machpay.protocol.intents import Voucher
from machpay.protocol.settlements import ItemResult, to_item

Status = PaymentIntent.Status


class _Nonce(NamedTuple):
    """The prefix of the primary key: what one agent may use on one channel only."""

    time: datetime
    agent: str
    nonce: UUID


def record_batch(
    *,
    mint: str,
    gateway: str,
    vendor: str,
    items: Sequence[Verified],
    vouchers: Sequence[Voucher],
    position: LogPosition | None = None,
) -> list[ItemResult]:
    """Store `items` that `gateway` (registered, serving `vendor`) delivered, and credit the vendor for what was
    charged.

    `vouchers` raise the highest voucher of channels that are known and whose agent signed them; others are ignored.
    `position` is given when with these items all of that part of the gateway's log was delivered.
    Returns one result per item, in order, once everything has committed. Safe to repeat and to run concurrently.
    """
    agents = {item.channel: item.agent for item in items}
    valid = _verified_vouchers(vouchers, agents)
    with transaction.atomic():
        hold_agents(agents.values())
        channels = _lock_channels(agents, valid, gateway, vendor)
        stored = _stored_nonces(items)
        batch = _Batch(channels, stored, mint)
        results = [batch.add(item) for item in items]
        for voucher in valid:
            batch.raise_highest(channels[str(voucher.channel)], voucher)
        batch.write()
        if position is not None:
            news = any(result.status == "accepted" for result in results)
            gateways.note_delivered(gateway, position, news=news)
    return results


def what_is_stored(items: Sequence[Verified]) -> list[Literal["new", "duplicate", "conflict"]]:
    """Per item, what `record_batch` would find: nothing, the same payment, or another one under this nonce on this
    channel, which it would refuse for good. A look only; nothing is locked."""
    stored = _stored_nonces(items)
    found: list[Literal["new", "duplicate", "conflict"]] = []
    for item in items:
        digest = stored.get(_nonce_of(item), {}).get(item.channel)
        found.append("new" if digest is None else "duplicate" if digest == item.digest else "conflict")
    return found


def _verified_vouchers(vouchers: Sequence[Voucher], agents: dict[str, str]) -> list[Voucher]:
    """Vouchers of known channels that their agents signed. Runs before any lock is taken."""
    unknown = [address for voucher in vouchers if (address := str(voucher.channel)) not in agents]
    known = agents | dict(Channel.objects.filter(address__in=unknown).values_list("address", "agent_id"))
    return [
        voucher
        for voucher in vouchers
        if (agent := known.get(str(voucher.channel))) is not None
        and voucher.is_signed_by(Pubkey.from_string(agent))
    ]


def _lock_channels(
    agents: dict[str, str], vouchers: Iterable[Voucher], gateway: str, vendor: str
) -> dict[str, Channel]:
    """Every channel of the batch, locked; new ones are created. The agents are locked, so nobody else creates them."""
    wanted = {*agents, *(str(voucher.channel) for voucher in vouchers)}
    channels = lock_channels(wanted)
    missing = [
        Channel(address=address, agent_id=agents[address], gateway_id=gateway, vendor=vendor)
        for address in sorted(wanted - channels.keys())
    ]
    Channel.objects.bulk_create(missing)
    return channels | {channel.address: channel for channel in missing}


_STORED: Final = """
SELECT i.nonce_time, i.agent, i.nonce, i.channel, i.digest
FROM unnest(%s::timestamptz[], %s::text[], %s::uuid[]) AS n (nonce_time, agent, nonce)
JOIN payment_intents i ON i.nonce_time = n.nonce_time AND i.agent = n.agent AND i.nonce = n.nonce
WHERE i.nonce_time BETWEEN %s AND %s
"""


def _stored_nonces(items: Sequence[Verified]) -> dict[_Nonce, dict[str, bytes]]:
    """For each nonce of the batch that is stored already: the digest by channel."""
    stored: dict[_Nonce, dict[str, bytes]] = {}
    nonces = [_nonce_of(item) for item in items]
    if not nonces:
        return stored
    times = [nonce.time for nonce in nonces]
    with connection.cursor() as cursor:
        columns = [
            texts([time.isoformat() for time in times]),
            texts([nonce.agent for nonce in nonces]),
            texts([str(nonce.nonce) for nonce in nonces]),
        ]
        cursor.execute(_STORED, [*columns, min(times), max(times)])
        for time, agent, nonce, channel, digest in cursor.fetchall():
            stored.setdefault(_Nonce(time, agent, nonce), {})[channel] = bytes(digest)
    return stored


def _nonce_of(item: Verified) -> _Nonce:
    return _Nonce(item.nonce_time, item.agent, item.payment.intent.nonce)


_COPY_INTENTS: Final = """
COPY payment_intents (
    nonce_time, agent, nonce, channel, gateway, vendor, digest, amount_atomic, charged_atomic, charged_through_atomic,
    cumulative_atomic, deadline, request_hash, signature, status, http_status, served_total_atomic, served_at,
    receipt_signature, gateway_seq, settled_at
) FROM STDIN
"""
_NULL: Final = "\\N"
_BYTES: Final = "\\\\x"
_UPDATE_CHANNELS: Final = """
UPDATE payments_channel c SET
    highest_cumulative_atomic = n.highest, highest_context = n.context, highest_signature = n.signature,
    charged_total_atomic = n.charged, charged_count = n.charged_count, void_count = n.void_count,
    credited_atomic = n.credited, first_payment_at = n.first_payment, last_payment_at = n.last_payment,
    unsettled_since = n.unsettled_since
FROM unnest(
    %s::text[], %s::numeric[], %s::bytea[], %s::bytea[], %s::numeric[], %s::bigint[], %s::bigint[], %s::numeric[],
    %s::timestamptz[], %s::timestamptz[], %s::timestamptz[]
) AS n (
    address, highest, context, signature, charged, charged_count, void_count, credited,
    first_payment, last_payment, unsettled_since
)
WHERE c.address = n.address
"""


_COUNT_DAYS: Final = """
INSERT INTO payments_agent_day (agent, day, charged_atomic)
SELECT * FROM unnest(%s::text[], %s::date[], %s::numeric[])
ON CONFLICT (agent, day) DO UPDATE SET charged_atomic = payments_agent_day.charged_atomic + excluded.charged_atomic
"""


class _Batch:
    """One batch while its items are applied to locked channels, in order."""

    def __init__(
        self, channels: dict[str, Channel], stored: dict[_Nonce, dict[str, bytes]], mint: str
    ) -> None:
        self._channels = channels
        self._stored = stored
        self._mint = mint
        self._now = timezone.now()
        self._now_text = self._now.isoformat()
        self._rows: list[str] = []
        self._equivocations: list[tuple[Verified, _Nonce, str]] = []
        self._touched: dict[str, int] = {}
        self._days: dict[tuple[str, date], int] = {}

    def add(self, item: Verified) -> ItemResult:
        """Decide what the item is and, if it is new, apply it."""
        address = item.channel
        channel = self._channels[address]
        nonce = _nonce_of(item)
        digests = self._stored.setdefault(nonce, {})
        digest = item.digest.hex()
        if address in digests:
            if digests[address] == item.digest:
                return ItemResult(digest, "duplicate", retry=False)
            self.raise_highest(channel, item.payment.voucher)
            return ItemResult(digest, "rejected", retry=False, code=RefusalCode.NONCE_REPLAYED)
        self._equivocations += [(item, nonce, other) for other in digests]
        digests[address] = item.digest
        self.raise_highest(channel, item.payment.voucher)
        self._charge(channel, item)
        return ItemResult(digest, "accepted", retry=False)

    def raise_highest(self, channel: Channel, voucher: Voucher) -> None:
        """H only rises; it is what the chain can be asked to pay."""
        if voucher.cumulative > channel.highest_cumulative_atomic:
            self._touch(channel)
            channel.highest_cumulative_atomic = voucher.cumulative
            channel.highest_context, channel.highest_signature = voucher.context, voucher.signature
            payable = min(channel.highest_cumulative_atomic, channel.charged_total_atomic)
            if channel.unsettled_since is None and payable > channel.settled_atomic:
                # Charged beyond every voucher there was, and given up for that: this one pays it after all.
                channel.unsettled_since = self._now

    def _touch(self, channel: Channel) -> None:
        self._touched.setdefault(channel.address, channel.credited_atomic)

    def _charge(self, channel: Channel, item: Verified) -> None:
        self._touch(channel)
        payment, intent = item.payment, item.payment.intent
        if payment.charged:
            channel.charged_total_atomic += payment.charged
            channel.charged_count += 1
            day = (channel.agent_id, item.nonce_time.date())
            self._days[day] = self._days.get(day, 0) + payment.charged
            # A claim may have been paid ahead of these charges: only what it did not cover is credited now.
            channel.credited_atomic = max(channel.credited_atomic, channel.charged_total_atomic)
        else:
            channel.void_count += 1
        served_at = None if payment.served_at is None else datetime.fromtimestamp(payment.served_at, UTC)
        paid_at = served_at or self._now
        channel.first_payment_at = min(channel.first_payment_at or paid_at, paid_at)
        channel.last_payment_at = max(channel.last_payment_at or paid_at, paid_at)
        settled = channel.charged_total_atomic <= channel.settled_atomic
        if not settled and channel.unsettled_since is None:
            channel.unsettled_since = self._now
        charged_status = Status.SETTLED if settled else Status.PENDING
        status = charged_status if payment.charged else Status.VOID
        total, receipt = payment.served_total, payment.receipt
        # COPY's text form. No value of these can hold a tab, a line's end or a backslash of its own.
        self._rows.append(
            f"{item.nonce_time.isoformat()}\t{channel.agent_id}\t{intent.nonce}\t{channel.address}"
            f"\t{channel.gateway_id}\t{channel.vendor}\t\\\\x{item.digest.hex()}\t{intent.amount}\t{payment.charged}"
            f"\t{channel.charged_total_atomic}\t{intent.cumulative}\t{intent.deadline}"
            f"\t\\\\x{intent.request_hash.hex()}\t\\\\x{payment.signature.hex()}\t{status}\t{payment.http_status}"
            f"\t{_NULL if total is None else total}\t{_NULL if served_at is None else served_at.isoformat()}"
            f"\t{_NULL if receipt is None else _BYTES + receipt.signature.hex()}\t{payment.seq}"
            f"\t{self._now_text if status is Status.SETTLED else _NULL}\n"
        )

    def write(self) -> None:
        """Store everything that was added."""
        with connection.cursor() as cursor:
            if self._rows:
                with connection.wrap_database_errors, cursor.copy(_COPY_INTENTS) as copy:
                    copy.write("".join(self._rows))
            if self._touched:
                cursor.execute(_UPDATE_CHANNELS, self._channel_columns())
            if self._days:
                agents, days = zip(*self._days, strict=True)
                counted = [texts(agents), texts([day.isoformat() for day in days])]
                cursor.execute(_COUNT_DAYS, [*counted, integers(self._days.values())])
        equivocations.store(_evidence(*found) for found in self._equivocations)
        post(list(self._charges()))

    def _channel_columns(self) -> list[str]:
        channels = [self._channels[address] for address in self._touched]
        return [
            texts([c.address for c in channels]),
            integers([c.highest_cumulative_atomic for c in channels]),
            binaries([c.highest_context for c in channels]),
            binaries([c.highest_signature for c in channels]),
            integers([c.charged_total_atomic for c in channels]),
            integers([c.charged_count for c in channels]),
            integers([c.void_count for c in channels]),
            integers([c.credited_atomic for c in channels]),
            _times([c.first_payment_at for c in channels]),
            _times([c.last_payment_at for c in channels]),
            _times([c.unsettled_since for c in channels]),
        ]

    def _charges(self) -> Iterable[Transfer]:
        for address, credited_before in self._touched.items():
            channel = self._channels[address]
            if amount := channel.credited_atomic - credited_before:
                yield Transfer.move(
                    f"charge:{address}:{channel.credited_atomic}",
                    chart.TransferKind.CHARGE,
                    debit=chart.spent_unsettled(channel.agent_id, self._mint),
                    credit=chart.unsettled(channel.vendor, channel.gateway_id, self._mint),
                    amount_atomic=amount,
                )


def _times(values: Iterable[datetime | None]) -> str:
    return texts([None if value is None else value.isoformat() for value in values])


def _evidence(item: Verified, nonce: _Nonce, other_channel: str) -> Equivocation:
    """Both signed intents, complete: what `slash_equivocation` shows to the chain."""
    other = PaymentIntent.objects.get(
        nonce_time=nonce.time, agent=nonce.agent, nonce=nonce.nonce, channel=other_channel
    )
    address = item.channel
    found = {
        address: msgspec.to_builtins(to_item(item.payment)),
        other_channel: equivocations.stored_half(other),
    }
    return equivocations.evidence(nonce.agent, nonce.nonce, found)
