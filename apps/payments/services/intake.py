"""Storing resolved payments exactly once, and crediting them.

The primary key (nonce time, agent, nonce, channel) decides what an item is: the same digest again is a duplicate;
another digest on the same channel is refused for good, though its voucher counts; the same nonce on another channel is
stored and credited like any payment and recorded as an equivocation, which the agent's row lock makes impossible to
miss. Intents, channel totals, ledger and evidence commit together; the number of SQL statements does not depend on the
number of items.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection, transaction
from django.utils import timezone
from solders.pubkey import Pubkey

from apps.ledger import chart
from apps.ledger.services import post
from apps.ledger.types import Transfer
from apps.payments.locks import lock_agents, lock_channels
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
    agents = {str(item.payment.intent.channel): str(item.payment.agent) for item in items}
    valid = _verified_vouchers(vouchers, agents)
    with transaction.atomic():
        lock_agents(agents.values())
        channels = _lock_channels(agents, valid, gateway, vendor)
        stored = _stored_nonces(items)
        batch = _Batch(channels, stored, mint)
        results = [batch.add(item) for item in items]
        for voucher in valid:
            batch.raise_highest(channels[str(voucher.channel)], voucher)
        batch.write()
        if position is not None:
            gateways.note_delivered(gateway, position)
    return results


def what_is_stored(items: Sequence[Verified]) -> list[Literal["new", "duplicate", "conflict"]]:
    """Per item, what `record_batch` would find: nothing, the same payment, or another one under this nonce on this
    channel, which it would refuse for good. A look only; nothing is locked."""
    stored = _stored_nonces(items)
    found: list[Literal["new", "duplicate", "conflict"]] = []
    for item in items:
        digest = stored.get(_nonce_of(item), {}).get(str(item.payment.intent.channel))
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
        columns = [list(column) for column in zip(*nonces, strict=True)]
        cursor.execute(_STORED, [*columns, min(times), max(times)])
        for time, agent, nonce, channel, digest in cursor.fetchall():
            stored.setdefault(_Nonce(time, agent, nonce), {})[channel] = bytes(digest)
    return stored


def _nonce_of(item: Verified) -> _Nonce:
    return _Nonce(item.nonce_time, str(item.payment.agent), item.payment.intent.nonce)


_INTENT_COLUMNS: Final = (
    ("nonce_time", "timestamptz"),
    ("agent", "text"),
    ("nonce", "uuid"),
    ("channel", "text"),
    ("gateway", "text"),
    ("vendor", "text"),
    ("digest", "bytea"),
    ("amount_atomic", "numeric"),
    ("charged_atomic", "numeric"),
    ("charged_through_atomic", "numeric"),
    ("cumulative_atomic", "numeric"),
    ("deadline", "int8"),
    ("request_hash", "bytea"),
    ("signature", "bytea"),
    ("status", "text"),
    ("http_status", "int4"),
    ("served_total_atomic", "numeric"),
    ("served_at", "timestamptz"),
    ("receipt_signature", "bytea"),
    ("gateway_seq", "int8"),
    ("settled_at", "timestamptz"),
)
_COPY_INTENTS: Final = (
    f"COPY payment_intents ({', '.join(name for name, _ in _INTENT_COLUMNS)}) FROM STDIN (FORMAT BINARY)"
)
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
        self._rows: list[tuple[Any, ...]] = []
        self._equivocations: list[tuple[Verified, _Nonce, str]] = []
        self._touched: dict[str, int] = {}
        self._days: dict[tuple[str, date], int] = {}

    def add(self, item: Verified) -> ItemResult:
        """Decide what the item is and, if it is new, apply it."""
        address = str(item.payment.intent.channel)
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
        self._rows.append(
            (
                item.nonce_time,
                channel.agent_id,
                intent.nonce,
                channel.address,
                channel.gateway_id,
                channel.vendor,
                item.digest,
                intent.amount,
                payment.charged,
                channel.charged_total_atomic,
                intent.cumulative,
                intent.deadline,
                intent.request_hash,
                payment.signature,
                str(status),
                payment.http_status,
                payment.served_total,
                served_at,
                None if payment.receipt is None else payment.receipt.signature,
                payment.seq,
                self._now if status is Status.SETTLED else None,
            )
        )

    def write(self) -> None:
        """Store everything that was added."""
        with connection.cursor() as cursor:
            if self._rows:
                with connection.wrap_database_errors, cursor.copy(_COPY_INTENTS) as copy:
                    copy.set_types([kind for _, kind in _INTENT_COLUMNS])
                    for row in self._rows:
                        copy.write_row(row)
            if self._touched:
                columns = [list(column) for column in zip(*self._channel_rows(), strict=True)]
                cursor.execute(_UPDATE_CHANNELS, columns)
            if self._days:
                days = [(agent, day, amount) for (agent, day), amount in self._days.items()]
                cursor.execute(_COUNT_DAYS, [list(column) for column in zip(*days, strict=True)])
        equivocations.store(_evidence(*found) for found in self._equivocations)
        post(list(self._charges()))

    def _channel_rows(self) -> list[tuple[Any, ...]]:
        return [
            (
                c.address,
                c.highest_cumulative_atomic,
                c.highest_context,
                c.highest_signature,
                c.charged_total_atomic,
                c.charged_count,
                c.void_count,
                c.credited_atomic,
                c.first_payment_at,
                c.last_payment_at,
                c.unsettled_since,
            )
            for c in (self._channels[address] for address in self._touched)
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


def _evidence(item: Verified, nonce: _Nonce, other_channel: str) -> Equivocation:
    """Both signed intents, complete: what `slash_equivocation` shows to the chain."""
    other = PaymentIntent.objects.get(
        nonce_time=nonce.time, agent=nonce.agent, nonce=nonce.nonce, channel=other_channel
    )
    address = str(item.payment.intent.channel)
    found = {
        address: msgspec.to_builtins(to_item(item.payment)),
        other_channel: equivocations.stored_half(other),
    }
    return equivocations.evidence(nonce.agent, nonce.nonce, found)
