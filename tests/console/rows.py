"""Rows of payments as the console finds them."""

import os
from datetime import timedelta
from typing import Any

from django.utils import timezone
from solders.signature import Signature

from apps.payments.models import AgentMirror, Channel, Gateway, Settlement
from machpay.protocol.keys import SigningKey


def pubkey() -> str:
    return SigningKey.generate().pubkey


def gateway(status: str = "UP", **fields: Any) -> Gateway:
    values = {
        "pubkey": pubkey(),
        "vendor": pubkey(),
        "status": status,
        "url": "https://gateway.example",
        **fields,
    }
    return Gateway.objects.create(**values)


def channel(of: Gateway, *, charged: int, settled: int = 0, calls: int = 1) -> Channel:
    return Channel.objects.create(
        address=pubkey(),
        agent=AgentMirror.objects.create(agent=pubkey()),
        gateway=of,
        vendor=of.vendor,
        charged_total_atomic=charged,
        charged_count=calls,
        settled_atomic=settled,
        credited_atomic=max(charged, settled),
    )


def settlement(state: str = "FINALIZED", *, planned: int = 1_500_000, paid: int | None = None) -> Settlement:
    ended = timezone.now() - timedelta(seconds=1) if state in ("FINALIZED", "FAILED") else None
    return Settlement.objects.create(
        vendor=pubkey(),
        state=state,
        signature=str(Signature(os.urandom(64))),
        raw_transaction=b"raw",
        last_valid_block_height=1,
        channel_count=2,
        planned_atomic=planned,
        paid_atomic=paid,
        ended_at=ended,
    )
