"""The aggregated voucher: one agent's signature over what it has authorised on many channels.

    message = "MP" 0x01 0x41 || sha256("machpay:aggregate:v1" || domain || mint || agent || n u16 LE
                                       || n x (channel 32 || cumulative u64 LE))                       = 36 bytes

Channels are strictly ascending by their bytes, exist, and are the signer's own. The voucher never expires: a channel's
watermark makes a replay pay nothing. It authorises nothing that the agent has not signed per channel before, which
whoever signs one must check (`covers`); claims and slashing accept single vouchers only.
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Self

import msgspec
from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.protocol.encoding import U64_MAX, parse_b64, parse_pubkey, parse_u64
from machpay.protocol.errors import MalformedError
from machpay.protocol.intents import Voucher
from machpay.protocol.keys import SIGNATURE_LENGTH, SigningKey, verify
from machpay.protocol.x402 import parse_voucher

AGGREGATE_PREFIX: Final = b"MP\x01A"
# A transaction locks at most 64 accounts, of which the settlement itself needs seven.
AGGREGATE_CHANNELS_MAX: Final = 57
_TAG: Final = b"machpay:aggregate:v1"


@dataclass(frozen=True, slots=True)
class ChannelTotal:
    """Everything authorised on one channel so far, atomic units."""

    channel: Pubkey
    cumulative: int


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What an aggregated voucher says. `domain` is the cluster's genesis hash; `totals` ascend by channel.

    Raises `MalformedError` for no channels, more than 57, another order, a repeated channel or an amount outside u64.
    """

    domain: Hash
    mint: Pubkey
    agent: Pubkey
    totals: tuple[ChannelTotal, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.totals) <= AGGREGATE_CHANNELS_MAX:
            raise MalformedError(f"an aggregated voucher has 1 to {AGGREGATE_CHANNELS_MAX} channels")
        keys = [bytes(total.channel) for total in self.totals]
        if any(before >= after for before, after in pairwise(keys)):
            raise MalformedError("channels must be strictly ascending by address")
        if not all(0 <= total.cumulative <= U64_MAX for total in self.totals):
            raise MalformedError("cumulative must be an unsigned 64-bit integer")

    @classmethod
    def of(cls, domain: Hash, mint: Pubkey, agent: Pubkey, totals: Iterable[ChannelTotal]) -> Self:
        """The aggregate of these totals, put in the order the voucher demands."""
        return cls(domain, mint, agent, tuple(sorted(totals, key=lambda total: bytes(total.channel))))

    @property
    def message(self) -> bytes:
        """The 36 bytes that are signed."""
        body = _TAG + bytes(self.domain) + bytes(self.mint) + bytes(self.agent)
        body += struct.pack("<H", len(self.totals))
        body += b"".join(bytes(total.channel) + struct.pack("<Q", total.cumulative) for total in self.totals)
        return AGGREGATE_PREFIX + hashlib.sha256(body).digest()

    def covers(self, vouchers: Iterable[Voucher]) -> bool:
        """Every total is one that the agent has signed already: `vouchers` hold, per channel, a valid signature of the
        agent's over at least that much. Then co-signing authorises nothing new."""
        signed: dict[Pubkey, int] = {}
        for voucher in vouchers:
            if voucher.cumulative > signed.get(voucher.channel, -1) and voucher.is_signed_by(self.agent):
                signed[voucher.channel] = voucher.cumulative
        return all(total.cumulative <= signed.get(total.channel, -1) for total in self.totals)

    def sign(self, key: SigningKey) -> bytes:
        return key.sign(self.message)

    def is_signed_by_agent(self, signature: bytes) -> bool:
        return verify(self.agent, self.message, signature)


class ProposedChannel(msgspec.Struct):
    """One channel of a proposal: the total to settle up to (decimal string), and the agent's own voucher over at least
    that much, `{channel, cumulative, context, signature}`."""

    gateway: str
    cumulative: str
    voucher: dict[str, str]


class AggregationProposal(msgspec.Struct):
    """What recon would settle with one signature of the agent's. `amount` (atomic units) is what it would take from the
    bond at most, `expires_at` RFC 3339; afterwards the channels are settled one by one."""

    id: str
    agent: str
    channels: list[ProposedChannel]
    amount: str
    expires_at: str

    def parse(self, *, domain: Hash, mint: Pubkey, agent: Pubkey) -> tuple[Aggregate, list[Voucher]]:
        """The aggregate to sign for `agent` on this network, and the vouchers that must cover it: sign only what
        `Aggregate.covers` them. Raises `MalformedError`, also for a proposal to another agent."""
        if parse_pubkey(self.agent, "agent") != agent:
            raise MalformedError("the proposal is for another agent")
        vouchers = [parse_voucher(channel.voucher) for channel in self.channels]
        totals = [
            ChannelTotal(voucher.channel, parse_u64(channel.cumulative, "cumulative"))
            for channel, voucher in zip(self.channels, vouchers, strict=True)
        ]
        return Aggregate.of(domain, mint, agent, totals), vouchers


class AggregationList(msgspec.Struct):
    """The answer of `GET /aggregations?agent=`: proposals that wait for the agent's signature."""

    proposals: list[AggregationProposal]


class AggregationSignature(msgspec.Struct):
    """The body of `POST /aggregations/{id}/sign`: the agent's signature over `Aggregate.message`, base64."""

    signature: str

    def parse(self) -> bytes:
        """The 64 bytes. Raises `MalformedError`."""
        return parse_b64(self.signature, "signature", SIGNATURE_LENGTH)


class AggregationAnswer(msgspec.Struct):
    """The answer of `POST /aggregations/{id}/sign`: `SIGNED`, also when it was signed before."""

    id: str
    status: str
