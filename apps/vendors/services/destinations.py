"""Wallets that a user may be paid at: named, confirmed by the wallet's own signature, usable after a cooling-off.

The cooling-off gives the owner of a hijacked session time to notice; a wallet that is removed and named again begins
anew.
"""

import secrets
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from apps.vendors.errors import BadConfirmation, DestinationNotUsable, UnknownDestination
from apps.vendors.models import PayoutDestination
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.keys import verify


def add_destination(user_id: int, wallet: str) -> PayoutDestination:
    """Name a wallet; the answer's `challenge_text` is what it has to sign. Naming it again returns the same row.

    Raises `MalformedError` if it is no address."""
    wallet = str(parse_pubkey(wallet, "wallet"))
    PayoutDestination.objects.bulk_create(
        [PayoutDestination(user_id=user_id, wallet=wallet, challenge=secrets.token_hex(16))],
        ignore_conflicts=True,
    )
    return PayoutDestination.objects.get(user_id=user_id, wallet=wallet, removed_at=None)


def challenge_text(destination: PayoutDestination) -> str:
    """What the wallet signs: readable where wallets show it, and good for one user and wallet."""
    return (
        "MachPay: pay my balance out to this wallet.\n"
        f"Wallet: {destination.wallet}\nUser: {destination.user_id}\nChallenge: {destination.challenge}"
    )


def confirm_destination(user_id: int, wallet: str, signature: bytes) -> PayoutDestination:
    """Confirm a wallet; it is usable once `PAYOUT_COOLING_OFF_S` is over. Confirming again changes nothing.

    Raises `UnknownDestination`, `BadConfirmation`."""
    with transaction.atomic():
        row = _named(user_id, wallet)
        if not verify(parse_pubkey(row.wallet, "wallet"), challenge_text(row).encode(), signature):
            raise BadConfirmation("this is not the wallet's signature over the challenge")
        if row.confirmed_at is None:
            row.confirmed_at = timezone.now()
            row.usable_from = row.confirmed_at + timedelta(seconds=settings.PAYOUT_COOLING_OFF_S)
            row.save(update_fields=["confirmed_at", "usable_from"])
    return row


def remove_destination(user_id: int, wallet: str) -> None:
    """Payouts that were requested go on; new ones are refused. Raises `UnknownDestination`."""
    with transaction.atomic():
        row = _named(user_id, wallet)
        row.removed_at = timezone.now()
        row.save(update_fields=["removed_at"])


def usable_destination(user_id: int, wallet: str) -> PayoutDestination:
    """The wallet's row, locked for the transaction, if it may be paid now. Raises `UnknownDestination`,
    `DestinationNotUsable`."""
    row = _named(user_id, wallet)
    if row.usable_from is None:
        raise DestinationNotUsable("confirm this wallet first")
    left = (row.usable_from - timezone.now()).total_seconds()
    if left > 0:
        raise DestinationNotUsable(
            f"this wallet may be paid from {row.usable_from.isoformat(timespec='seconds')} on",
            retry_after_s=int(left) + 1,
        )
    return row


def _named(user_id: int, wallet: str) -> PayoutDestination:
    row = (
        PayoutDestination.objects.select_for_update(no_key=True)
        .filter(user_id=user_id, wallet=wallet, removed_at=None)
        .first()
    )
    if row is None:
        raise UnknownDestination("this wallet is not one of yours")
    return row
