"""`manage.py recon_status [--json] [--watch SECONDS]`: what waits for recon, what is under way, what needs a person."""

import sys
import time
from dataclasses import asdict
from datetime import datetime

import msgspec
from django.core.management.base import BaseCommand, CommandParser
from django.utils import timezone

from apps.core.arguments import number
from apps.core.money import format_usdc
from apps.payments.selectors.recon import Status, recon_status
from apps.settlement.services.settle import due_policy

STUCK = 1
# A transaction is final or expired within a few minutes, whatever happens to it.
STUCK_AFTER_S = 900.0


class Command(BaseCommand):
    help = (
        "Show what is unsettled and due, transactions by state, proposals and batches; asks the database only. Exits"
        " with 1 if a transaction has been under way for more than 15 minutes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object, amounts in atomic units")
        parser.add_argument(
            "--watch", type=number(0.1, 86_400), metavar="SECONDS", help="again every so many seconds"
        )

    def handle(self, *, json: bool, watch: float | None, **_options: object) -> None:
        while True:
            now = timezone.now()
            # The clock of this machine is near enough to the chain's for a count.
            status = recon_status(due_policy(int(now.timestamp())), now=now)
            stuck = status.oldest_open is not None and _age(status.oldest_open, now) > STUCK_AFTER_S
            if json:
                self.stdout.write(msgspec.json.encode({**asdict(status), "stuck": stuck}).decode())
            else:
                self._show(status, now, stuck)
            if watch is None:
                break
            time.sleep(watch)
        if stuck:
            sys.exit(STUCK)

    def _show(self, status: Status, now: datetime, stuck: bool) -> None:
        def line(name: str, text: object) -> None:
            self.stdout.write(f"{name:<16}{text}")

        line("slot", f"{status.slot} mirrored")
        line(
            "unsettled",
            f"{status.unsettled_channels} channels, {format_usdc(status.unsettled_atomic)} USDC,"
            f" the oldest since {_ago(status.oldest_unsettled, now)}",
        )
        line("due", f"{status.due_channels} channels; urgent {status.urgent_channels}")
        line("after failures", f"{status.failing_channels} channels, {status.waiting_channels} wait")
        line("owed on chain", f"{status.owed_channels} channels, {format_usdc(status.owed_atomic)} USDC")
        states = ", ".join(f"{count} {state}" for state, count in sorted(status.open.items())) or "none"
        line("under way", f"{states}; the oldest since {_ago(status.oldest_open, now)}")
        line("not mirrored", f"{status.unapplied} final transactions")
        proposals = (
            ", ".join(f"{count} {state}" for state, count in sorted(status.proposals.items())) or "none"
        )
        line("proposals", proposals)
        line(
            "fraud",
            f"{status.open_equivocations} open equivocations, {status.suspended_agents} suspended agents",
        )
        under_way = "" if status.open_batch is None else f", batch {status.open_batch} under way"
        line("batches", f"{status.batches} on chain{under_way}; {status.unbatched_payments} payments wait")
        if stuck:
            self.stdout.write("a transaction is under way for too long: see docs/operations")


def _age(since: datetime, now: datetime) -> float:
    return (now - since).total_seconds()


def _ago(since: datetime | None, now: datetime) -> str:
    return "-" if since is None else f"{_age(since, now):.0f} s"
