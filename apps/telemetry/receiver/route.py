"""One CloudEvent -> the rows it becomes. Pure: it knows the types, not the database.

Every event becomes a row of `telemetry_events`; a type listed in `TYPED` also becomes a row of its own table.
A type that is not listed is stored raw. What breaks a rule raises `EventRefused`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec

from apps.telemetry import tables
from apps.telemetry.receiver.errors import EventRefused
from apps.telemetry.receiver.parse import Attributes, CloudEvent
from machpay.protocol.encoding import parse_pubkey, parse_u64
from machpay.protocol.errors import MalformedError
from machpay.protocol.events import PAYMENT_AUTHORIZED, REQUEST_BLOCKED

DATA_BYTES_MAX: Final = 64 * 1024
# PostgreSQL stores no NUL. JSON spells it \u0000; after an odd number of backslashes it is only text.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment as its gateway reports it; see `models.PaymentAuthorized`."""

    gateway: str
    agent: str
    vendor: str | None
    service: str | None
    route: str | None
    amount_atomic: int
    charged_atomic: int
    http_status: int
    latency_ms: float | None
    city: str | None


@dataclass(frozen=True, slots=True)
class Blocked:
    """A refused request as its gateway reports it; see `models.RequestBlocked`."""

    gateway: str
    agent: str | None
    reason: str
    route: str | None
    required_amount_atomic: int | None
    current_balance_atomic: int | None


Typed = Payment | Blocked


@dataclass(frozen=True, slots=True)
class Event:
    """One event ready to be stored. `data` and `extensions` are JSON text without NUL; `typed` is None for a
    type without a table of its own."""

    time: datetime
    source: str
    id: str
    type: str
    subject: str | None
    data: str | None
    extensions: str | None
    typed: Typed | None

    @property
    def key(self) -> tuple[datetime, str, str]:
        return self.time, self.source, self.id


def route(event: CloudEvent, *, signer: str, now: datetime) -> Event:
    """Check one event sent by the key `signer` and name its rows. Raises `EventRefused`."""
    attributes = event.attributes
    kind = _check_source(attributes.source, signer)
    _check_time(attributes.time, now)
    for value in (attributes.id, attributes.type, attributes.subject or ""):
        if not value.isprintable():
            raise EventRefused("malformed", "id, type and subject must be printable text")
    reader = TYPED.get(attributes.type)
    return Event(
        time=attributes.time.astimezone(UTC),
        source=attributes.source,
        id=attributes.id,
        type=attributes.type,
        subject=attributes.subject,
        data=_json_text(event.data, "data"),
        extensions=_json_text(event.extensions or None, "the extension attributes"),
        typed=None if reader is None else _read_typed(reader, event, kind, signer),
    )


def _check_source(source: str, signer: str) -> str:
    kind, _, key = source.partition(":")
    if kind not in ("gateway", "agent") or not key:
        raise EventRefused("malformed", "source must be gateway:<pubkey> or agent:<pubkey>")
    if key != signer:
        raise EventRefused("source_mismatch", "source is not the key that signed the request")
    return kind


def _check_time(time: datetime, now: datetime) -> None:
    if time > now + tables.EVENT_AHEAD_MAX:
        raise EventRefused("time_out_of_range", "the event is from the future")
    if time < now - tables.EVENT_AGE_MAX:
        raise EventRefused("time_out_of_range", f"the event is older than {tables.EVENT_AGE_MAX.days} days")


def _json_text(value: Any, name: str) -> str | None:
    """JSON that PostgreSQL can store. Encoded anew: what Python could decode, `jsonb` can hold."""
    if value is None:
        return None
    encoded = msgspec.json.encode(value)
    if len(encoded) > DATA_BYTES_MAX:
        raise EventRefused("too_large", f"{name} may have at most {DATA_BYTES_MAX} bytes of JSON")
    if b"\\u0000" in encoded and _NUL.search(encoded):
        raise EventRefused("malformed", f"{name} must not contain \\u0000")
    return encoded.decode()


def _read_typed(reader: "Reader", event: CloudEvent, kind: str, signer: str) -> Typed:
    if kind != "gateway":
        raise EventRefused("source_mismatch", f"only a gateway reports {event.attributes.type}")
    try:
        return reader(event.attributes, event.data, signer)
    except (msgspec.ValidationError, MalformedError) as error:
        raise EventRefused("invalid_data", f"{event.attributes.type}: {error}") from error


Label = Annotated[str, msgspec.Meta(max_length=255)]
ShortLabel = Annotated[str, msgspec.Meta(max_length=100)]
Status = Annotated[int, msgspec.Meta(ge=0, le=999)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0)]


class PaymentData(msgspec.Struct):
    """The parts of `com.machpay.payment.authorized` that have a column; the rest stays in the raw event."""

    agent: str
    amount: str | int
    gateway: str | None = None
    vendor: str | None = None
    charged: str | int | None = None
    status: str = "charged"
    http_status: Status = 200
    service: Label | None = None
    route: Label | None = None
    latency_ms: Milliseconds | None = None
    city: ShortLabel | None = None


class BlockedData(msgspec.Struct):
    """The parts of `com.machpay.request.blocked` that have a column."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    agent_id: str | None = None
    route: Label | None = None
    required_amount: str | int | None = None
    current_balance: str | int | None = None


def _read_payment(attributes: Attributes, data: Any, signer: str) -> Payment:
    payment = msgspec.convert(data, PaymentData)
    if payment.gateway not in (None, signer):
        raise EventRefused("source_mismatch", "the payment names another gateway than its source")
    amount = parse_u64(payment.amount, "amount")
    if payment.status == "void":
        charged = 0
    else:
        charged = amount if payment.charged is None else parse_u64(payment.charged, "charged")
    if charged > amount:
        raise EventRefused("invalid_data", "charged is above the signed amount")
    return Payment(
        gateway=signer,
        agent=str(parse_pubkey(payment.agent, "agent")),
        vendor=str(parse_pubkey(payment.vendor, "vendor")) if payment.vendor else None,
        service=payment.service,
        route=payment.route,
        amount_atomic=amount,
        charged_atomic=charged,
        http_status=payment.http_status,
        latency_ms=payment.latency_ms,
        city=payment.city,
    )


def _read_blocked(attributes: Attributes, data: Any, signer: str) -> Blocked:
    blocked = msgspec.convert(data, BlockedData)
    required, balance = blocked.required_amount, blocked.current_balance
    return Blocked(
        gateway=signer,
        agent=str(parse_pubkey(blocked.agent_id, "agent_id")) if blocked.agent_id else None,
        reason=blocked.reason,
        route=blocked.route,
        required_amount_atomic=None if required is None else parse_u64(required, "required_amount"),
        current_balance_atomic=None if balance is None else parse_u64(balance, "current_balance"),
    )


Reader = Callable[[Attributes, Any, str], Typed]
TYPED: Final[dict[str, Reader]] = {PAYMENT_AUTHORIZED: _read_payment, REQUEST_BLOCKED: _read_blocked}
