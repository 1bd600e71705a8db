"""Time on the chain: slots from a steady clock, blockhashes from slots, the clock that programs read.

Every slot has a block, so slot and block height are the same number.
"""

import hashlib
import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum

from solders.hash import Hash

SLOTS_PER_EPOCH = 432_000
BLOCKHASH_AGE_MAX = 150
SLOT_HASHES_MAX = 512


class Commitment(IntEnum):
    """How settled a view of the chain is, least settled first."""

    processed = 0
    confirmed = 1
    finalized = 2


class SlotClock:
    """Counts slots of `slot_ms` from `anchor_slot` on, and says what time programs see.

    `offset_s` is added to the wall clock for programs only: moving it makes timelocks pass without waiting, and changes
    neither slots nor blockhashes.
    """

    def __init__(
        self,
        *,
        anchor_slot: int,
        slot_ms: int,
        finalized_lag: int,
        offset_s: int = 0,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.anchor_slot = anchor_slot
        self.slot_ms = slot_ms
        self.finalized_lag = finalized_lag
        self.offset_s = offset_s
        self._wall = wall
        self._steady = steady
        self._start = steady()

    def slot(self) -> int:
        """Return the slot that is open now; it is the processed one."""
        return self.anchor_slot + self._elapsed_ms() // self.slot_ms

    def unix_timestamp(self) -> int:
        """Return the time programs see now, in seconds."""
        return int(self._wall()) + self.offset_s

    def skip(self, slots: int) -> None:
        """Let `slots` slots pass at once; the time that programs see stays."""
        self.anchor_slot += slots

    def seconds_to_next_slot(self) -> float:
        """Return how long the open slot lasts still."""
        return (self.slot_ms - self._elapsed_ms() % self.slot_ms) / 1000

    def wall_ms(self) -> int:
        """Return the wall clock in milliseconds, without the offset."""
        return int(self._wall() * 1000)

    def slot_start_ms(self) -> int:
        """Return the time programs saw at the start of the open slot, in milliseconds."""
        return self.wall_ms() + self.offset_s * 1000 - self._elapsed_ms() % self.slot_ms

    def slots_behind(self, commitment: Commitment) -> int:
        """Return how many slots the view at this commitment lags the processed one."""
        return (0, 1, self.finalized_lag)[commitment]

    def _elapsed_ms(self) -> int:
        return int((self._steady() - self._start) * 1000)


class Blockhashes:
    """The hashes of recent blocks. A hash follows from genesis and slot, so a restarted chain knows its old ones."""

    def __init__(self, genesis: Hash) -> None:
        self._genesis = bytes(genesis)
        # The open slot, and as many before it as the SlotHashes sysvar holds.
        self._recent: deque[tuple[int, Hash]] = deque(maxlen=SLOT_HASHES_MAX + 1)
        self._slots: dict[Hash, int] = {}

    def of(self, slot: int) -> Hash:
        """Return the hash of the block in `slot`."""
        digest = hashlib.sha256(b"machpay:localnet:block" + self._genesis + slot.to_bytes(8, "little"))
        return Hash(digest.digest())

    def advance(self, slot: int) -> None:
        """Make `slot` the newest block."""
        newest = self._recent[-1][0] if self._recent else -1
        for number in range(max(newest + 1, slot - SLOT_HASHES_MAX, 0), slot + 1):
            if len(self._recent) == self._recent.maxlen:
                self._slots.pop(self._recent[0][1], None)
            entry = (number, self.of(number))
            self._recent.append(entry)
            self._slots[entry[1]] = number

    def slot_of(self, blockhash: Hash) -> int | None:
        """Return the slot of a block hash that a transaction may still name, else None."""
        slot = self._slots.get(blockhash)
        if slot is None or self._recent[-1][0] > last_valid_height(slot):
            return None
        return slot

    def before(self, slot: int) -> list[tuple[int, Hash]]:
        """Return the SlotHashes sysvar for a transaction in `slot`: earlier blocks, newest first."""
        return [entry for entry in reversed(self._recent) if entry[0] < slot]


def last_valid_height(slot: int) -> int:
    """Return the last block height at which a transaction naming the block of `slot` may land."""
    return slot + BLOCKHASH_AGE_MAX
