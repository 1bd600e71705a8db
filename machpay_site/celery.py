"""Celery for the network, and the whole beat schedule on one screen.

One `beat` process runs per network; workers may be many, since every task claims its work in the database.
"""

import os

from celery import Celery
from celery.schedules import crontab
from celery.signals import setup_logging, worker_process_init, worker_process_shutdown, worker_shutdown

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "machpay_site.settings")

app = Celery("machpay")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect
def _keep_django_logging(**_kwargs: object) -> None:
    """Django's settings already configured logging; Celery must not replace it."""


@worker_process_init.connect
def _keep_chain_connections(**_kwargs: object) -> None:
    """Sent by the pools that run one task at a time in a process; others open a client for each task."""
    from apps.settlement.chain import keep_connections

    keep_connections()


@worker_process_shutdown.connect
@worker_shutdown.connect
def _close_chain_connections(**_kwargs: object) -> None:
    from apps.settlement.chain import close_connections

    close_connections()


def schedule() -> dict[str, dict[str, object]]:
    from django.conf import settings

    def every(seconds: float, task: str) -> dict[str, object]:
        # A run that waited longer than its period is dropped: the next one does its work.
        return {"task": task, "schedule": seconds, "options": {"expires": max(seconds, 5.0)}}

    custody = {
        "pay-payouts": every(settings.CHAIN_POLL_INTERVAL_S, "settlement.pay_payouts"),
        "sync-deposits": every(settings.CHAIN_POLL_INTERVAL_S, "settlement.sync_deposits"),
    }
    return {
        # Without its key a network keeps nobody's money.
        **(custody if settings.CUSTODY_KEYPAIR else {}),
        "settle-channels": every(settings.SETTLE_INTERVAL_S, "settlement.settle"),
        "follow-transactions": every(settings.CHAIN_POLL_INTERVAL_S, "settlement.follow"),
        "sync-chain": every(settings.CHAIN_POLL_INTERVAL_S, "settlement.sync_chain"),
        "look-for-fraud": every(settings.FRAUD_INTERVAL_S, "settlement.look_for_fraud"),
        "watch-solvency": every(settings.SETTLE_INTERVAL_S, "settlement.watch_solvency"),
        "watch-confirmed": every(settings.CHAIN_POLL_INTERVAL_S, "settlement.watch_confirmed"),
        "extend-tables": every(settings.SETTLE_INTERVAL_S, "settlement.extend_tables"),
        "commit-batch": every(settings.CHAIN_POLL_INTERVAL_S, "settlement.commit_batch"),
        "sweep": every(300.0, "settlement.sweep"),
        "reconcile": {
            "task": "settlement.reconcile",
            "schedule": crontab(hour="3", minute="10"),
            "options": {"expires": 3600.0},
        },
        "mark-stale-gateways": every(30.0, "payments.mark_stale_gateways"),
        "free-lapsed-leases": every(10.0, "payments.free_lapsed_leases"),
        "forget-changes": every(3600.0, "payments.forget_changes"),
        "forget-leases": every(600.0, "payments.forget_leases"),
        "forget-days": every(86_400.0, "payments.forget_days"),
        "publish-stats": every(1.0, "console.publish_stats"),
        "expire-holds": every(10.0, "ledger.expire_holds"),
        "ensure-partitions": every(3600.0, "core.ensure_partitions"),
    }


@app.on_after_configure.connect
def _install_schedule(sender: Celery, **_kwargs: object) -> None:
    sender.conf.beat_schedule = schedule()
