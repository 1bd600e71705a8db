"""What the chain's answer about a transaction means for its settlement. Pure.

    finalised                  FINAL if it succeeded, FAILED if it was rolled back
    confirmed                  CONFIRMED if it succeeded, else WAIT: a fork may still undo the failure
    processed                  WAIT
    not seen, still valid      RESEND the stored bytes: they may have been dropped, and cannot land twice
    not seen, validity over    WAIT until that is final by a margin, then EXPIRED: it can never land

A table, so that every combination is a test.
"""

from enum import StrEnum
from typing import Final

from machpay.chain.transactions import TxStatus

# A last reserve: the look-up's server had reached the slot of that height.
EXPIRY_MARGIN_BLOCKS: Final = 8


class Verdict(StrEnum):
    RESEND = "resend"
    WAIT = "wait"
    CONFIRMED = "confirmed"
    FINAL = "final"
    FAILED = "failed"
    EXPIRED = "expired"


def judge(status: TxStatus | None, *, last_valid_block_height: int, finalized_height: int) -> Verdict:
    """`status` is the look-up through history, made after `finalized_height` was read and by a server that had reached
    its slot: otherwise a transaction that landed could be taken for expired."""
    if status is None:
        if finalized_height <= last_valid_block_height:
            return Verdict.RESEND
        is_final = finalized_height > last_valid_block_height + EXPIRY_MARGIN_BLOCKS
        return Verdict.EXPIRED if is_final else Verdict.WAIT
    if status.confirmation == "finalized":
        return Verdict.FINAL if status.err is None else Verdict.FAILED
    if status.confirmation == "confirmed" and status.err is None:
        return Verdict.CONFIRMED
    return Verdict.WAIT
