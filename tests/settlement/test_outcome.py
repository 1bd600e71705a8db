"""What the chain's answer about a transaction means, for every combination."""

import pytest

from apps.settlement.services.outcome import EXPIRY_MARGIN_BLOCKS, Verdict, judge
from machpay.chain.errors import TransactionFailed
from machpay.chain.transactions import TxStatus

LAST_VALID = 1_000
FAILED = TransactionFailed("rolled back")


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (TxStatus("processed", None, 7), Verdict.WAIT),
        (TxStatus("processed", FAILED, 7), Verdict.WAIT),
        (TxStatus("confirmed", None, 7), Verdict.CONFIRMED),
        (TxStatus("confirmed", FAILED, 7), Verdict.WAIT),
        (TxStatus("finalized", None, 7), Verdict.FINAL),
        (TxStatus("finalized", FAILED, 7), Verdict.FAILED),
    ],
)
@pytest.mark.parametrize("height", [1, LAST_VALID + 10 * EXPIRY_MARGIN_BLOCKS])
def test_what_was_seen_is_judged_whatever_the_height(status: TxStatus, verdict: Verdict, height: int) -> None:
    assert judge(status, last_valid_block_height=LAST_VALID, finalized_height=height) is verdict


@pytest.mark.parametrize(
    ("height", "verdict"),
    [
        (LAST_VALID - 1, Verdict.RESEND),
        (LAST_VALID, Verdict.RESEND),
        (LAST_VALID + 1, Verdict.WAIT),
        (LAST_VALID + EXPIRY_MARGIN_BLOCKS, Verdict.WAIT),
        (LAST_VALID + EXPIRY_MARGIN_BLOCKS + 1, Verdict.EXPIRED),
    ],
)
def test_what_was_not_seen_expires_past_the_margin_only(height: int, verdict: Verdict) -> None:
    assert judge(None, last_valid_block_height=LAST_VALID, finalized_height=height) is verdict
