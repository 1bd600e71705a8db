"""`manage.py settle --now [--vendor KEY] [--dry-run] [--json]`: settle what is unsettled, without waiting for beat."""

import time
from typing import Any, Final

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.core.arguments import number
from apps.core.errors import DomainError
from apps.core.money import format_usdc
from apps.payments.selectors.recon import Progress, progress_of
from apps.payments.selectors.vendors import payout_accounts
from apps.settlement.chain import ChainSession, connect
from apps.settlement.services.follow import follow
from apps.settlement.services.fraud import look_for_fraud
from apps.settlement.services.plan import Plan
from apps.settlement.services.settle import preview, settle
from apps.settlement.services.sync import sync_chain
from machpay.chain.errors import ChainError

NOT_ALL: Final = 1
COULD_NOT: Final = 2
_POLL_SECONDS: Final = 0.5


class Command(BaseCommand):
    help = (
        "Settle every channel that has something unsettled, however little and recent, and wait until that is final."
        " Exits with 1 if some transactions failed or are not final in time (recon goes on with them), 2 if it could"
        " not begin."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--now", action="store_true", required=True, help="required: this spends fees")
        parser.add_argument("--vendor", help="only channels of this vendor (authority key)")
        parser.add_argument("--dry-run", action="store_true", help="say what would be sent; sends nothing")
        parser.add_argument(
            "--timeout", type=number(0, 86_400), default=120.0, help="seconds to wait for finality (120)"
        )
        parser.add_argument("--json", action="store_true", help="one JSON object, amounts in atomic units")

    def handle(
        self, *, vendor: str | None, dry_run: bool, timeout: float, json: bool, **_options: object
    ) -> None:
        try:
            with connect() as chain:
                if dry_run:
                    self._preview(preview(chain, vendor=vendor), json)
                else:
                    self._settle(chain, vendor, timeout, json)
                # Only now: the chain has been looked at, and who is registered is known.
                if vendor is not None and not payout_accounts([vendor]):
                    raise CommandError(f"{vendor} is no vendor of this network", returncode=COULD_NOT)
        except (DomainError, ChainError) as error:
            raise CommandError(str(error), returncode=COULD_NOT) from error

    def _preview(self, plans: list[Plan], json: bool) -> None:
        channels = sum(len(plan.channels) for plan in plans)
        amount = sum(channel.payable_atomic for plan in plans for channel in plan.channels)
        found: dict[str, Any] = {
            "dry_run": True,
            "transactions": len(plans),
            "channels": channels,
            "amount_atomic": amount,
        }
        if json:
            self.stdout.write(msgspec.json.encode(found).decode())
            return
        self.stdout.write(f"{'vendor':<46}{'channels':>10}{'USDC':>18}  table")
        for plan in plans:
            total = format_usdc(sum(channel.payable_atomic for channel in plan.channels))
            table = "yes" if plan.table else "no"
            self.stdout.write(f"{plan.vendor:<46}{len(plan.channels):>10}{total:>18}  {table}")
        self.stdout.write(
            f"would send {len(plans)} transactions for {channels} channels, {format_usdc(amount)} USDC;"
            " nothing was sent"
        )

    def _settle(self, chain: ChainSession, vendor: str | None, timeout: float, json: bool) -> None:
        look_for_fraud(chain)
        ids: list[int] = []
        ends = time.monotonic() + timeout
        while True:
            new = settle(
                chain, vendor=vendor, everything=True, progress=lambda n: self._line(json, f"{n} channels")
            )
            ids += new
            follow(chain)
            sync_chain(chain)
            progress = progress_of(ids)
            self._line(json, f"{progress.ended} of {progress.settlements} transactions final")
            # What is owed after a settlement is distributed by the next round.
            if (progress.ended == progress.settlements and not new) or time.monotonic() > ends:
                break
            time.sleep(_POLL_SECONDS)
        self._show(progress, json)
        if progress.failed or progress.ended < progress.settlements:
            raise SystemExit(NOT_ALL)

    def _line(self, json: bool, text: str) -> None:
        """Progress that draws over itself, on a terminal only."""
        if self.stdout.isatty() and not json:
            self.stdout.write(f"\r{text:<60}", ending="\r")
            self.stdout.flush()

    def _show(self, progress: Progress, json: bool) -> None:
        if json:
            self.stdout.write(msgspec.json.encode(progress).decode())
            return
        self.stdout.write(
            f"{progress.settlements} transactions, {progress.channels} channels:"
            f" {progress.final} final, {progress.failed} failed, {progress.under_way} under way"
        )
        self.stdout.write(f"paid {format_usdc(progress.paid_atomic)} USDC")
