"""Gateways that accepted payments without a valid signature of the agent, proven by what they signed themselves.

The evidence comes inside a request that the gateway signed, with the gateway's own receipt over the payment: it served
and charged an intent that nobody authorised. Nothing else of a refused item says that, so nothing else is held against
it.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from django.db import transaction
from django.utils import timezone
from solders.pubkey import Pubkey

from apps.payments.models import Case, CaseEntry
from apps.payments.services.cases import RECON, open_case, record, uphold
from machpay.chain.network import Network
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.settlements import decode_item, parse_item

_KEPT_PER_CASE: Final = 20


def unsigned_charges(
    items: Sequence[msgspec.Raw], *, network: Network, gateway: Pubkey
) -> list[dict[str, Any]]:
    """Those of the refused `items` that the gateway charged, by its valid receipt, without the agent's signature.
    Pure."""
    found = []
    for raw in items:
        try:
            item = decode_item(raw)
            channel = network.channel(parse_pubkey(item.agent, "agent"), gateway)
            payment = parse_item(item, gateway=gateway, channel=channel)
        except MalformedError:
            continue
        receipted = payment.receipt is not None and payment.receipt.is_signed_by(gateway)
        if receipted and payment.charged and not payment.voucher.is_signed_by(payment.agent):
            found.append(msgspec.to_builtins(item))
    return found


def report(gateway: str, items: Sequence[dict[str, Any]]) -> None:
    """One case a day about a gateway; the first one is upheld at once, since the gateway's two signatures prove it, and
    puts it on the blacklist."""
    with transaction.atomic():
        case, new = open_case(
            kind=Case.Kind.INVALID_SIGNATURE,
            subject=gateway,
            key=f"signature:{gateway}:{timezone.now().date().isoformat()}",
            evidence={"items": list(items[:_KEPT_PER_CASE])},
            note="charged payments that their agents did not sign",
        )
        if not new and case.entries.count() < _KEPT_PER_CASE:
            record(case, CaseEntry.Action.EVIDENCE, by=RECON, data={"items": list(items[:_KEPT_PER_CASE])})
        if new:
            uphold(case.id, by=RECON, note="proven by the gateway's own receipts", blacklist=True)
