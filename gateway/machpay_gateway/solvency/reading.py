"""The relayer's answers as `Credit`."""

import time
from dataclasses import dataclass, replace

import msgspec
from solders.pubkey import Pubkey

from machpay.chain.network import Network
from machpay.protocol.encoding import decode_json, parse_u64
from machpay.protocol.errors import MalformedError
from machpay.protocol.intents import Voucher
from machpay.protocol.leases import LeaseAnswer
from machpay.protocol.snapshots import ChannelState, LiabilityAnswer, Snapshot
from machpay.protocol.x402 import parse_voucher
from machpay_gateway.decide import Credit

_liability_decoder = msgspec.json.Decoder(LiabilityAnswer)
_lease_decoder = msgspec.json.Decoder(LeaseAnswer)


@dataclass(frozen=True, slots=True)
class Leased:
    """A lease as it was answered, or why there is none (`refused`)."""

    credit: Credit
    lease_id: str | None
    valid_s: float
    refused: str | None


def read_credit(body: bytes, agent: Pubkey, gateway: Pubkey, network: Network) -> Credit:
    """The answer of `GET /liability/{agent}`. Raises `MalformedError`."""
    answer: LiabilityAnswer = decode_json(_liability_decoder, body, "the relayer's answer")
    if answer.agent != str(agent):
        raise MalformedError("the answer is about another agent")
    snapshot = answer.snapshot
    own = 0 if snapshot.lease is None else parse_u64(snapshot.lease.amount, "lease.amount")
    leased_elsewhere = max(0, parse_u64(snapshot.leases, "leases") - own)
    external = parse_u64(answer.external_liability, "external_liability") + leased_elsewhere
    return _credit(snapshot, answer.channel, agent, network.channel(agent, gateway), external)


def read_lease(body: bytes, agent: Pubkey, gateway: Pubkey, network: Network) -> Leased:
    """The answer of `POST /leases`. Raises `MalformedError`."""
    answer: LeaseAnswer = decode_json(_lease_decoder, body, "the relayer's answer")
    channel = network.channel(agent, gateway)
    if answer.channel is not None and answer.channel.address != str(channel):
        raise MalformedError("the answer is about another channel")
    credit = _credit(answer.snapshot, answer.channel, agent, channel, 0)
    return Leased(
        # The day's limit is inside the lease: what the relayer had heard of today is not this gateway's to count.
        credit=replace(
            credit, up_to=parse_u64(answer.up_to, "up_to"), remaining_today=None, refused=answer.refused
        ),
        lease_id=answer.lease_id,
        valid_s=answer.valid_ms / 1000,
        refused=answer.refused,
    )


def _credit(
    snapshot: Snapshot, channel: ChannelState | None, agent: Pubkey, address: Pubkey, external: int
) -> Credit:
    limits, today = snapshot.limits, snapshot.remaining_today
    return Credit(
        bond=parse_u64(snapshot.bond, "bond"),
        pending_withdrawal=parse_u64(snapshot.pending_withdrawal, "pending_withdrawal"),
        claims=parse_u64(snapshot.claims, "claims"),
        external=external,
        status=snapshot.status,
        per_call=None if limits.per_call is None else parse_u64(limits.per_call, "per_call"),
        remaining_today=None if today is None else parse_u64(today, "remaining_today"),
        settled=0 if channel is None else parse_u64(channel.settled, "settled"),
        charged_total=0 if channel is None else parse_u64(channel.charged_total, "charged_total"),
        voucher=None if channel is None else _voucher(channel, agent, address),
        read_at=time.monotonic(),
        network_cap=(
            parse_u64(snapshot.cap, "cap")
            if snapshot.mode == "optimistic" and snapshot.cap is not None
            else None
        ),
    )


def _voucher(state: ChannelState, agent: Pubkey, address: Pubkey) -> Voucher | None:
    """The relayer's highest voucher, if it really is the agent's for this channel: clients check it, so we do too."""
    if state.highest is None:
        return None
    voucher = parse_voucher(state.highest)
    if voucher.channel != address or not voucher.is_signed_by(agent):
        raise MalformedError("the voucher is not the agent's for this channel")
    return voucher
