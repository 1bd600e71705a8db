"""Gateways that report more than was authorised, or more than their own receipts say."""

from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F

from apps.payments.models import Case, Channel, PaymentIntent
from apps.payments.services.cases import open_case, resolve
from machpay.protocol.encoding import to_b64

_SHOWN = 5


def open_cases(*, unsettled_before: datetime) -> int:
    """One case per channel whose recorded charges pass its highest voucher for this long: every accepted payment is
    covered by a voucher, and vouchers are delivered with the charges. Cleared once the voucher is there. Returns how
    many are new."""
    channels = Channel.objects.filter(
        unsettled_since__lte=unsettled_before,
        charged_total_atomic__gt=F("highest_cumulative_atomic"),
    ).order_by("address")
    found = {
        f"unauthorised:{channel.address}:{channel.highest_cumulative_atomic}": channel for channel in channels
    }
    known = set(Case.objects.filter(key__in=found).values_list("key", flat=True))
    opened = 0
    for key, channel in found.items():
        # This runs every few seconds, and a case's evidence is many rows.
        if key in known:
            continue
        with transaction.atomic():
            _, new = open_case(
                kind=Case.Kind.OVER_REPORTED,
                subject=channel.gateway_id,
                key=key,
                amount_atomic=channel.charged_total_atomic - channel.highest_cumulative_atomic,
                evidence=_evidence(channel),
                note="more was charged than the agent ever authorised",
            )
        opened += new
    _resolve_covered()
    return opened


def _resolve_covered() -> None:
    """Cases whose voucher arrived later."""
    waiting = Case.objects.filter(kind=Case.Kind.OVER_REPORTED, status=Case.Status.OPEN)
    cases = list(waiting.filter(key__startswith="unauthorised:").order_by("id"))
    channels = Channel.objects.filter(address__in={case.evidence["channel"] for case in cases})
    highest = dict(channels.values_list("address", "highest_cumulative_atomic"))
    for case in cases:
        covered = highest[case.evidence["channel"]]
        if covered >= int(case.evidence["charged_total"]):
            resolve(case.id, note="the voucher was delivered", data={"highest": str(covered)})


def _evidence(channel: Channel) -> dict[str, Any]:
    intents = PaymentIntent.objects.filter(
        agent=channel.agent_id, channel=channel.address, charged_atomic__gt=0
    )
    return {
        "channel": channel.address,
        "agent": channel.agent_id,
        "vendor": channel.vendor,
        "charged_total": str(channel.charged_total_atomic),
        "highest": str(channel.highest_cumulative_atomic),
        "newest_charges": [
            {
                "digest": bytes(intent.digest).hex(),
                "cumulative": str(intent.cumulative_atomic),
                "charged": str(intent.charged_atomic),
                "served_total": None
                if intent.served_total_atomic is None
                else str(intent.served_total_atomic),
                "receipt": None
                if intent.receipt_signature is None
                else to_b64(bytes(intent.receipt_signature)),
            }
            for intent in intents.order_by("-nonce_time")[:_SHOWN]
        ],
    }
