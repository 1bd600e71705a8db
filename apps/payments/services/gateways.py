"""The gateway registry: who exists on chain, and who reports to be alive.

A row exists only for a gateway that was seen on chain at a finalised slot; its vendor never changes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.db.models import F, Q
from django.db.models.functions import Greatest
from django.utils import timezone

from apps.payments.models import Gateway
from machpay.chain.accounts import GatewayAccount

STALE_AFTER: Final = timedelta(seconds=90)
"""Three missed heartbeats: gateways report every 30 s at most."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a gateway says about itself; all of it is only for people."""

    version: str
    uptime_seconds: int
    stats: dict[str, Any]
    url: str
    log_seq: int


@dataclass(frozen=True, slots=True)
class LogPosition:
    """A part of a gateway's log, both ends included; the first payment of a log is number 1."""

    seq_from: int
    seq_to: int


def note_delivered(gateway: str, position: LogPosition, *, news: bool) -> None:
    """Everything in this part of the gateway's log is stored, or refused for good; part of the caller's
    transaction. Logs are delivered in order, so everything before it is too. A gateway that lost its log counts
    from 1 again, with payments that are `news`; without any it is a delivery of before, repeated or overtaken."""
    through: Any = position.seq_to
    if position.seq_from > 1 or not news:
        through = Greatest(F("delivered_seq"), position.seq_to)
    Gateway.objects.filter(pubkey=gateway).update(delivered_seq=through)


def remember(accounts: Iterable[GatewayAccount]) -> None:
    """Take over gateway accounts read at a finalised slot: new ones, and revocations."""
    seen = {str(account.gateway): account for account in accounts}
    known = dict(Gateway.objects.filter(pubkey__in=seen).values_list("pubkey", "revoked"))
    Gateway.objects.bulk_create(
        [
            Gateway(pubkey=pubkey, vendor=str(account.vendor), revoked=account.revoked)
            for pubkey, account in sorted(seen.items())
            if pubkey not in known
        ],
        ignore_conflicts=True,
    )
    revoked = [pubkey for pubkey, was in known.items() if seen[pubkey].revoked and not was]
    if revoked:
        Gateway.objects.filter(pubkey__in=revoked).update(revoked=True)


def record_heartbeat(*, gateway: str, heartbeat: Heartbeat) -> bool:
    """Store a heartbeat. False if the gateway is not in the registry, which stores nothing."""
    updated = Gateway.objects.filter(pubkey=gateway).update(
        status=Gateway.Status.UP,
        version=heartbeat.version[:40],
        uptime_seconds=heartbeat.uptime_seconds,
        stats=heartbeat.stats,
        url=heartbeat.url[:300],
        log_seq=heartbeat.log_seq,
        last_heartbeat_at=timezone.now(),
    )
    return bool(updated)


def mark_stale() -> int:
    """Mark gateways that fell silent as down; returns how many."""
    silent = Q(last_heartbeat_at__lt=timezone.now() - STALE_AFTER)
    return Gateway.objects.filter(silent, status=Gateway.Status.UP).update(status=Gateway.Status.DOWN)
