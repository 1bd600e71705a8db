"""Reads the custodial wallet's history and records what came in, as soon as it is final."""

from collections.abc import Iterator
from typing import Final

import structlog
from solders.pubkey import Pubkey

from apps.core import live
from apps.payments.models import CustodialDeposit
from apps.payments.services.custody import SeenDeposit, custody_cursor, record_deposits
from apps.settlement.chain import ChainSession
from apps.settlement.errors import SettlementPaused
from apps.settlement.services.custody.wallet import custodial_wallet
from apps.settlement.services.index import OVERLAP_SLOTS
from machpay.chain.client import SignatureSeen
from machpay.chain.deposits import transfers_into

log = structlog.get_logger(__name__)

_PAGE: Final = 1_000


def sync_deposits(chain: ChainSession) -> list[CustodialDeposit]:
    """Record every finalised transfer into the wallet since the last run; returns the new ones.

    Recorded oldest first, one transaction at a time, so dying anywhere loses nothing and repeats nothing. Raises
    `SettlementPaused` without the custody key or if the server cannot show a transaction that it lists, `ChainError`.
    """
    wallet, mint = custodial_wallet(chain), str(chain.network.mint)
    recorded: list[CustodialDeposit] = []
    listed = list(_since_cursor(chain, wallet))
    stored = CustodialDeposit.objects.filter(signature__in=[seen.signature for seen in listed])
    known = set(stored.values_list("signature", flat=True))
    for seen in reversed(listed):
        if seen.signature in known:
            continue
        found = [] if seen.failed else _transfers(chain, wallet, seen)
        new = record_deposits(found, mint=mint, signature=seen.signature, slot=seen.slot)
        recorded += new
        for deposit in new:
            _tell(deposit)
    return recorded


def _since_cursor(chain: ChainSession, wallet: Pubkey) -> Iterator[SignatureSeen]:
    """Finalised transactions that name the wallet, newest first, down to the last recorded one; of the last minute all,
    since a server may list one after later ones."""
    cursor = custody_cursor()
    lately = chain.run(chain.client.slot("finalized")) - OVERLAP_SLOTS
    floor = min(cursor.slot, lately)
    before: str | None = None
    while True:
        page = chain.run(chain.client.signatures_of(wallet, before=before, limit=_PAGE))
        for seen in page:
            is_last = seen.signature == cursor.signature
            # A server that has forgotten the cursor's own transaction still knows slots.
            if seen.slot < floor or (is_last and seen.slot < lately):
                return
            if not is_last:
                yield seen
        if len(page) < _PAGE:
            return
        before = page[-1].signature


def _transfers(chain: ChainSession, wallet: Pubkey, seen: SignatureSeen) -> list[SeenDeposit]:
    trace = chain.run(chain.client.trace(seen.signature, "finalized"))
    if trace is None:
        raise SettlementPaused(f"the RPC server lists {seen.signature} and does not show it")
    return [
        SeenDeposit(
            signature=seen.signature,
            instruction=each.instruction,
            amount_atomic=each.amount,
            source="" if each.source is None else str(each.source),
            named=tuple(str(key) for key in each.named),
            slot=seen.slot,
        )
        for each in transfers_into(wallet, trace)
    ]


def _tell(deposit: CustodialDeposit) -> None:
    log.info(
        "custodial_deposit",
        signature=deposit.signature,
        amount_atomic=deposit.amount_atomic,
        status=deposit.status,
        user=deposit.user_id,
    )
    if deposit.user_id is not None:
        live.publish(
            f"user:{deposit.user_id}",
            "deposit",
            {"amount_atomic": str(deposit.amount_atomic), "transaction": deposit.signature},
        )
