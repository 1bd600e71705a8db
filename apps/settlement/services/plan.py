"""Which channels go into which transaction. Pure: rows in, plans out; nothing here asks the chain or the
database."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from apps.payments.services.settlements import DueChannel
from machpay.chain.lookup_tables import LookupTable

# What a transaction of 1,232 bytes holds, with both compute-budget instructions. Without a lookup table 991 bytes,
# 1,090 when both channels are created; from one table 1,230, and 1,055 when all four are created.
CHANNELS_WITHOUT_TABLE_MAX: Final = 2
CHANNELS_WITH_TABLE_MAX: Final = 5
CREATED_WITH_TABLE_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """One transaction to be: channels of one vendor, each settled up to its recorded charges by its highest
    voucher. With a `table` every account of it that can be looked up is."""

    vendor: str
    channels: tuple[DueChannel, ...]
    table: LookupTable | None = None


def plan(
    due: Sequence[DueChannel],
    available: Mapping[str, int],
    *,
    tables: Mapping[str, LookupTable] | None = None,
    existing: Container[str] = (),
) -> list[Plan]:
    """Group `due` channels by vendor and table, as many a plan as a transaction holds, in the order given.

    `available` says per agent what its bond can still pay, transactions under way subtracted. A bond that
    covers a part pays that part: the chain stops at the bond by itself, and the rest stays due. A channel
    whose agent has nothing left is left out, since its transaction would cost a fee and move nothing.

    `tables` has, per channel address, a table that holds everything its settlement looks up; `existing` the
    addresses of channels that are on the chain already.
    """
    left = dict(available)
    groups: dict[tuple[str, LookupTable | None], list[DueChannel]] = {}
    for channel in due:
        if left.get(channel.agent, 0) <= 0:
            continue
        left[channel.agent] -= channel.payable_atomic
        table = (tables or {}).get(channel.address)
        groups.setdefault((channel.vendor, table), []).append(channel)
    return [
        Plan(vendor, part, table)
        for (vendor, table), channels in groups.items()
        for part in _parts(channels, table, existing)
    ]


def _parts(
    channels: Sequence[DueChannel], table: LookupTable | None, existing: Container[str]
) -> list[tuple[DueChannel, ...]]:
    """Cut a group into transactions."""
    parts: list[list[DueChannel]] = []
    limit = 0
    for channel in channels:
        if table is None:
            allowed = CHANNELS_WITHOUT_TABLE_MAX
        elif channel.address in existing:
            allowed = CHANNELS_WITH_TABLE_MAX
        else:
            allowed = CREATED_WITH_TABLE_MAX
        limit = min(limit, allowed)
        if not parts or len(parts[-1]) >= limit:
            parts.append([])
            limit = allowed
        parts[-1].append(channel)
    return [tuple(part) for part in parts]
