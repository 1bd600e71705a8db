"""Where vendors are paid, as the finalised chain says."""

from collections.abc import Iterable

from solders.pubkey import Pubkey

from apps.payments.models import VendorMirror


def payout_accounts(vendors: Iterable[str]) -> dict[str, Pubkey]:
    """The recorded payout account of each vendor (authority key) that is mirrored; others are absent."""
    rows = VendorMirror.objects.filter(authority__in=set(vendors)).values_list("authority", "payout")
    return {authority: Pubkey.from_string(payout) for authority, payout in rows}
