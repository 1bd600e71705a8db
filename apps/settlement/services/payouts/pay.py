"""Pays what was requested: one transaction a payout, so that one bad wallet holds up nobody.

Read the chain -> claim, sign and store in one database transaction without I/O -> commit -> send.
"""

from typing import Final

import structlog
from django.conf import settings
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from apps.settlement.chain import ChainSession, custody_keypair
from apps.settlement.services.payouts.send import send_attempts
from apps.settlement.services.signing import COMPUTE_UNIT_PRICE_MIN
from apps.vendors.models import Payout
from apps.vendors.services.execution import SignedPayout, claim_payouts, payouts_are_due
from machpay.chain.tokens import associated_token_address, create_ata_idempotent, transfer
from machpay.chain.transactions import sign_transaction

log = structlog.get_logger(__name__)

PAYOUTS_PER_RUN: Final = 20
# Creating a token account takes some 25,000 units, more for an unlucky address; transfer and memo take 20,000.
COMPUTE_UNIT_LIMIT: Final = 90_000
_MEMO_PROGRAM: Final = Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr")


def pay_payouts(chain: ChainSession) -> list[int]:
    """Sign, store and send the next pending payouts; returns their ids. Several workers may run it: each claims payouts
    that no other has. Raises `SettlementPaused` without the custody key, `RpcUnavailable`; what was stored by then is
    sent by `follow_payouts`."""
    custody = custody_keypair()
    if not payouts_are_due():
        return []
    wallet = associated_token_address(custody.pubkey(), chain.network.mint)
    price = chain.run(
        chain.client.priority_price([wallet], least=COMPUTE_UNIT_PRICE_MIN, most=settings.PRIORITY_PRICE_MAX)
    )
    blockhash, height = chain.run(chain.client.latest_blockhash())

    def sign(payout: Payout) -> SignedPayout:
        budget = [set_compute_unit_limit(COMPUTE_UNIT_LIMIT), set_compute_unit_price(price)]
        signed = sign_transaction(
            [*budget, *_instructions(custody, chain.network.mint, payout)],
            payer=custody,
            signers=[],
            blockhash=blockhash,
            last_valid_block_height=height,
        )
        return SignedPayout(signed.raw, signed.signature, signed.last_valid_block_height)

    attempts = claim_payouts(sign, limit=PAYOUTS_PER_RUN)
    if attempts:
        log.info("payouts_stored", payouts=[attempt.payout_id for attempt in attempts])
    send_attempts(chain, attempts)
    return [attempt.payout_id for attempt in attempts]


def _instructions(custody: Keypair, mint: Pubkey, payout: Payout) -> list[Instruction]:
    owner, payer = Pubkey.from_string(payout.wallet), custody.pubkey()
    # The memo makes two equal payouts with one block hash different transactions: the chain takes equal ones once.
    memo = f"payout {payout.pk}.{payout.attempt_count + 1}"
    return [
        Instruction(_MEMO_PROGRAM, memo.encode(), []),
        create_ata_idempotent(payer=payer, owner=owner, mint=mint),
        transfer(
            source=associated_token_address(payer, mint),
            destination=associated_token_address(owner, mint),
            authority=payer,
            amount=payout.amount_atomic,
        ),
    ]
