"""The program's events and how to read one from its bytes.

The annotated fields below are the one description of the events; the IDL is generated from them. Amounts are atomic
units, times unix seconds. Which bytes of a transaction really are an event is decided in `machpay.chain.traces`.
"""

import hashlib
import struct
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Final, get_args, get_type_hints

from solders.pubkey import Pubkey

from machpay.chain.errors import DecodeError

Key = Annotated[Pubkey, "pubkey"]
U16 = Annotated[int, "u16"]
U64 = Annotated[int, "u64"]
I64 = Annotated[int, "i64"]
Bool = Annotated[bool, "bool"]
Text = Annotated[str, "string"]
Hash = Annotated[bytes, "hash"]


@dataclass(frozen=True, slots=True)
class ConfigChanged:
    """The whole configuration from now on. `pending_admin` is the zero key while nobody is proposed."""

    mint: Key
    admin: Key
    pending_admin: Key
    relayer: Key
    treasury: Key
    min_bond: U64
    timelock: I64
    claim_delay: I64
    agent_bond_cap: U64
    reporter_bps: U16
    deposits_paused: Bool
    allow_list: Bool


@dataclass(frozen=True, slots=True)
class Deposited:
    """`amount` was added; `bond` is the sum after it. `authority` signed for the tokens."""

    mint: Key
    agent: Key
    owner: Key
    authority: Key
    amount: U64
    bond: U64


@dataclass(frozen=True, slots=True)
class WithdrawalRequested:
    """`amount` may leave from `unlock` on."""

    mint: Key
    agent: Key
    owner: Key
    amount: U64
    unlock: I64


@dataclass(frozen=True, slots=True)
class WithdrawalCancelled:
    """The owner took the request for `amount` back."""

    mint: Key
    agent: Key
    owner: Key
    amount: U64


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """`amount` went to the owner's token account `destination`; `bond` is what is left."""

    mint: Key
    agent: Key
    owner: Key
    destination: Key
    amount: U64
    bond: U64


@dataclass(frozen=True, slots=True)
class VendorRegistered:
    """A vendor and where it is paid."""

    authority: Key
    mint: Key
    payout: Key
    price: U64
    metadata_uri: Text


@dataclass(frozen=True, slots=True)
class VendorUpdated:
    """A vendor as it is from now on."""

    authority: Key
    mint: Key
    payout: Key
    price: U64
    metadata_uri: Text


@dataclass(frozen=True, slots=True)
class GatewayRegistered:
    """The gateway serves the vendor for ever."""

    gateway: Key
    vendor: Key


@dataclass(frozen=True, slots=True)
class GatewayRevoked:
    """The gateway's key is no longer trusted."""

    gateway: Key
    vendor: Key


@dataclass(frozen=True, slots=True)
class ChannelOpened:
    """A channel was created; its watermark is zero."""

    channel: Key
    mint: Key
    agent: Key
    gateway: Key
    vendor: Key


@dataclass(frozen=True, slots=True)
class SettledChannel:
    """One channel of a settlement: `amount` was paid, `settled` is the watermark after it."""

    channel: Key
    agent: Key
    gateway: Key
    amount: U64
    settled: U64


@dataclass(frozen=True, slots=True)
class Settled:
    """One vendor was paid `total`, or has it `owed` because its payout account could not receive it."""

    mint: Key
    vendor: Key
    payout: Key
    channels: tuple[SettledChannel, ...]
    total: U64
    owed: Bool


@dataclass(frozen=True, slots=True)
class Shortfall:
    """`missing` was due on the channel and not there; it stays authorised."""

    channel: Key
    agent: Key
    gateway: Key
    vendor: Key
    missing: U64
    settled: U64


@dataclass(frozen=True, slots=True)
class AggregatedChannel:
    """One channel of an aggregated settlement: `amount` became owed, `settled` is the watermark after it."""

    channel: Key
    amount: U64
    settled: U64


@dataclass(frozen=True, slots=True)
class Aggregated:
    """One agent's bond paid `total` into what its channels are owed."""

    mint: Key
    agent: Key
    channels: tuple[AggregatedChannel, ...]
    total: U64


@dataclass(frozen=True, slots=True)
class DistributedChannel:
    """One channel of a distribution: `amount` was owed and is paid."""

    channel: Key
    amount: U64


@dataclass(frozen=True, slots=True)
class Distributed:
    """One vendor was paid what many channels owed it."""

    mint: Key
    vendor: Key
    payout: Key
    channels: tuple[DistributedChannel, ...]
    total: U64


@dataclass(frozen=True, slots=True)
class ClaimRequested:
    """A claim up to `cumulative`, `asked` above the watermark, may be executed from `unlock` on."""

    channel: Key
    mint: Key
    agent: Key
    gateway: Key
    vendor: Key
    cumulative: U64
    asked: U64
    unlock: I64


@dataclass(frozen=True, slots=True)
class ClaimExecuted:
    """A claim paid `amount`; `settled` is the watermark after it; `owed` as in `Settled`."""

    channel: Key
    mint: Key
    agent: Key
    gateway: Key
    vendor: Key
    payout: Key
    amount: U64
    settled: U64
    owed: Bool


@dataclass(frozen=True, slots=True)
class BatchSettled:
    """A Merkle root over `leaf_count` payments that charged `total`; `head` is the hash chain after it."""

    mint: Key
    sequence: U64
    root: Hash
    leaf_count: U64
    total: U64
    head: Hash
    committed_at: I64


@dataclass(frozen=True, slots=True)
class AgentSlashed:
    """An agent signed one nonce for two gateways; its bond is `forfeited`, vendors are paid until `window_end`."""

    mint: Key
    agent: Key
    reporter: Key
    first_gateway: Key
    second_gateway: Key
    forfeited: U64
    set_aside: U64
    window_end: I64


@dataclass(frozen=True, slots=True)
class ForfeitedSwept:
    """What vendors left of a forfeited bond was paid out; `forfeited` is what still stays."""

    mint: Key
    agent: Key
    reporter: Key
    treasury: Key
    to_reporter: U64
    to_treasury: U64
    forfeited: U64


Event = (
    ConfigChanged
    | Deposited
    | WithdrawalRequested
    | WithdrawalCancelled
    | Withdrawn
    | VendorRegistered
    | VendorUpdated
    | GatewayRegistered
    | GatewayRevoked
    | ChannelOpened
    | Settled
    | Shortfall
    | Aggregated
    | Distributed
    | ClaimRequested
    | ClaimExecuted
    | BatchSettled
    | AgentSlashed
    | ForfeitedSwept
)
EVENT_KINDS: Final[tuple[type, ...]] = get_args(Event)


@cache
def discriminator(name: str) -> bytes:
    """Anchor's event discriminator: the first 8 bytes of sha256("event:<Name>")."""
    return hashlib.sha256(f"event:{name}".encode()).digest()[:8]


_KINDS: Final[dict[bytes, type[Event]]] = {discriminator(kind.__name__): kind for kind in EVENT_KINDS}
_NUMBERS: Final = {
    "u16": struct.Struct("<H"),
    "u32": struct.Struct("<I"),
    "u64": struct.Struct("<Q"),
    "i64": struct.Struct("<q"),
}
_KEY_LENGTH: Final = 32


@cache
def fields(kind: type) -> tuple[tuple[str, str | type], ...]:
    """Name and type of every field of an event in the order of their bytes. A type is one of the names above, or the
    class of which a vector holds any number."""
    described = get_type_hints(kind, include_extras=True)
    return tuple((name, _type(hint)) for name, hint in described.items())


def _type(hint: Any) -> str | type:
    if hasattr(hint, "__metadata__"):
        return str(hint.__metadata__[0])
    element: type = get_args(hint)[0]
    return element


def decode_event(data: bytes) -> Event:
    """An event from its discriminator and fields. Raises `DecodeError` for an unknown event, and for bytes too many or
    too few."""
    kind = _KINDS.get(bytes(data[:8]))
    if kind is None:
        raise DecodeError("not an event of the MachPay program")
    reader = _Reader(data, 8)
    event: Event = reader.structure(kind)
    if reader.offset != len(data):
        raise DecodeError(f"{len(data) - reader.offset} bytes are left over after a {kind.__name__} event")
    return event


class _Reader:
    """A cursor over borsh."""

    def __init__(self, data: bytes, offset: int) -> None:
        self.data = bytes(data)
        self.offset = offset

    def structure(self, kind: type) -> Any:
        return kind(*(self.value(type_) for _, type_ in fields(kind)))

    def value(self, type_: str | type) -> Any:
        if isinstance(type_, type):
            return tuple(self.structure(type_) for _ in range(self.value("u32")))
        if type_ in _NUMBERS:
            number = _NUMBERS[type_]
            return number.unpack(self.take(number.size))[0]
        if type_ == "bool":
            (byte,) = self.take(1)
            if byte > 1:
                raise DecodeError(f"a bool is 0 or 1, not {byte}")
            return byte == 1
        if type_ == "string":
            return self.text(self.value("u32"))
        raw = self.take(_KEY_LENGTH)
        return Pubkey(raw) if type_ == "pubkey" else raw

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise DecodeError("an event's text is not UTF-8") from error

    def take(self, length: int) -> bytes:
        end = self.offset + length
        if end > len(self.data):
            raise DecodeError("an event ends before its last field")
        chunk = self.data[self.offset : end]
        self.offset = end
        return chunk
