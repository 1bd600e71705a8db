"""May this request be served? Pure functions: facts in, a decision out; no clock, no socket, no state changed.

    decide = screen (the intent by itself, signature included) then admit (the agent's standing here)

The caller acts on `Forward` by reserving the price in the same step, with no await between: two requests can then
never both use the same part of a signed total.
"""

from dataclasses import dataclass

import msgspec

from machpay.protocol.errors import RefusalCode
from machpay.protocol.intents import Voucher
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.screening import Attempt, Offer, Reject, screen


@dataclass(frozen=True, slots=True)
class Credit:
    """What the relayer last said about an agent, one snapshot. Amounts in atomic units.

    `external` is the agent's liability at other gateways, what is leased to them included; `settled`, `charged_total`
    and `voucher` are the relayer's and the chain's state of this gateway's own channel; `read_at` is on the monotonic
    clock, in seconds. `up_to` is the total of charges that this gateway's lease covers, None in optimistic mode;
    `refused` says why there is no lease. `network_cap` bounds what the agent may owe all gateways together.
    """

    bond: int
    pending_withdrawal: int
    claims: int
    external: int
    status: str
    per_call: int | None
    remaining_today: int | None
    settled: int
    charged_total: int
    voucher: Voucher | None
    read_at: float
    up_to: int | None = None
    refused: str | None = None
    network_cap: int | None = None


@dataclass(frozen=True, slots=True)
class Earlier:
    """A payment of the same agent with the same identifier that was served or is in flight. `receipt` is None while it
    is in flight."""

    digest: bytes
    same_request: bool
    receipt: SignedReceipt | None


class Standing(msgspec.Struct, frozen=True):
    """The agent's channel at this gateway and its credit. `credit` is None when nothing recent is known.

    `cap` bounds what one agent may owe this gateway unsettled (0: no bound). `earlier` is what the payment's identifier
    already stands for.
    """

    highest: int
    served: int
    reserved: int
    nonce_seen: bool
    credit: Credit | None
    cap: int
    earlier: Earlier | None = None


class Forward(msgspec.Struct, frozen=True):
    """Reserve `price` and forward the request."""

    price: int


@dataclass(frozen=True, slots=True)
class Challenge:
    """Nothing was offered: answer 402 with the price."""

    price: int


@dataclass(frozen=True, slots=True)
class LookUp:
    """The signature is good, but nothing recent is known about the agent, or its lease is used up: ask the relayer,
    then `admit` again."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The identifier was used before: answer by what became of that payment, and charge nothing."""

    earlier: Earlier


Decision = Forward | Challenge | Reject | LookUp | Repeat


def decide(attempt: Attempt | None, offer: Offer, standing: Standing, now: float) -> Decision:
    """The whole decision; `now` is unix seconds."""
    if attempt is None:
        return Challenge(offer.price)
    return screen(attempt, offer, now) or admit(attempt.intent.cumulative, offer.price, standing)


def admit(
    cumulative: int, price: int, standing: Standing, *, asked: bool = False
) -> Forward | Reject | LookUp | Repeat:
    """Judge a payment that passed `screen` against the agent's standing. `asked` says that the relayer gave its credit
    just now, so that a lease which does not cover the price is all there is."""
    if standing.earlier is not None:
        return Repeat(standing.earlier)
    if standing.nonce_seen:
        return Reject(RefusalCode.NONCE_REPLAYED, "a payment with this nonce was already accepted")
    credit = standing.credit
    if credit is None:
        return LookUp()
    status = credit.status.upper()
    if status == "SLASHED":
        return Reject(RefusalCode.AGENT_SLASHED, "the agent's bond was slashed")
    if status != "ACTIVE":
        return Reject(RefusalCode.AGENT_SUSPENDED, "the agent is suspended")
    committed = standing.served + standing.reserved
    if credit.per_call is not None and price > credit.per_call:
        return Reject(RefusalCode.BUDGET_EXCEEDED, f"the agent's limit per call is {credit.per_call}")
    # The relayer's daily figure already counts what it was told of; the rest is this gateway's to add.
    unreported = max(0, committed - credit.charged_total)
    if credit.remaining_today is not None and unreported + price > credit.remaining_today:
        return Reject(RefusalCode.BUDGET_EXCEEDED, "the agent's daily limit is used up")
    if max(standing.highest, cumulative) < committed + price:
        return Reject(
            RefusalCode.CUMULATIVE_TOO_LOW,
            f"{committed} is committed, so at least {committed + price} is needed",
        )
    unsettled = max(0, committed - credit.settled)
    leased = credit.up_to is not None and credit.refused is None
    if leased and not asked and (credit.up_to or 0) - committed < price:
        return LookUp()
    return _uncovered(credit, committed, unsettled, price, standing.cap) or Forward(price)


def _uncovered(credit: Credit, committed: int, unsettled: int, price: int, cap: int) -> Reject | None:
    """The refusal if neither the lease nor, in optimistic mode, the bond covers `price` more."""
    if credit.up_to is not None:
        left = max(0, credit.up_to - committed)
        if left < price and credit.refused == RefusalCode.BUDGET_EXCEEDED:
            return Reject(RefusalCode.BUDGET_EXCEEDED, "the agent's daily limit is used up")
        if left < price:
            return Reject(
                RefusalCode.INSUFFICIENT_BOND,
                f"what is leased of the bond covers {left} more, the price is {price}",
            )
    else:
        free = credit.bond - credit.pending_withdrawal - credit.claims - credit.external - unsettled
        if free < price:
            return Reject(
                RefusalCode.INSUFFICIENT_BOND, f"the bond covers {max(0, free)} more, the price is {price}"
            )
        if credit.network_cap is not None and credit.external + unsettled + price > credit.network_cap:
            return Reject(RefusalCode.INSUFFICIENT_BOND, "the agent owes as much as it may before settlement")
    if cap and unsettled + price > cap:
        return Reject(
            RefusalCode.INSUFFICIENT_BOND, "the agent owes this gateway as much as it may before settlement"
        )
    return None


def is_charged(http_status: int, method: str, *, charge_4xx: bool) -> bool:
    """Whether an upstream's answer is a service that was rendered: 2xx, by choice 4xx; never 3xx, 5xx or HEAD."""
    if method == "HEAD":
        return False
    return 200 <= http_status < 300 or (charge_4xx and 400 <= http_status < 500)
