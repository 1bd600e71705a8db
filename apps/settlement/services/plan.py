"""Which channels go into which transaction. Pure: rows in, plans out; nothing here asks the chain or the
database."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from apps.payments.services.settlements import DueChannel

# Without a lookup table a transaction of 1,232 bytes holds two channels: 991 bytes, 1,090 when both are
# created.
CHANNELS_PER_TRANSACTION_MAX: Final = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """One transaction to be: channels of one vendor, each settled up to its recorded charges by its highest
    voucher."""

    vendor: str
    channels: tuple[DueChannel, ...]


def plan(due: Sequence[DueChannel], available: Mapping[str, int]) -> list[Plan]:
    """Group `due` channels by vendor, at most two a plan, in the order given.

    `available` says per agent what its bond can still pay, transactions under way subtracted. A bond that
    covers a part pays that part: the chain stops at the bond by itself, and the rest stays due. A channel
    whose agent has nothing left is left out, since its transaction would cost a fee and move nothing.
    """
    left = dict(available)
    by_vendor: dict[str, list[DueChannel]] = {}
    for channel in due:
        if left.get(channel.agent, 0) <= 0:
            continue
        left[channel.agent] -= channel.payable_atomic
        by_vendor.setdefault(channel.vendor, []).append(channel)
    return [
        Plan(vendor, tuple(channels[start : start + CHANNELS_PER_TRANSACTION_MAX]))
        for vendor, channels in by_vendor.items()
        for start in range(0, len(channels), CHANNELS_PER_TRANSACTION_MAX)
    ]
