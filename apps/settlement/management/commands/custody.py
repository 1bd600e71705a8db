"""`manage.py custody [--init] [--json]`: the custodial wallet, and whether it holds what the ledger says."""

import sys

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.core.errors import DomainError
from apps.core.money import format_usdc
from apps.payments.models import CustodialDeposit
from apps.settlement.chain import connect
from apps.settlement.services.custody import compare_custody, custodial_wallet, ensure_wallet
from apps.vendors.models import Payout
from machpay.chain.errors import ChainError

MISMATCH = 1
COULD_NOT = 2


class Command(BaseCommand):
    help = "Show the custodial wallet against the ledger. Exits with 1 if they differ, 2 if it cannot look."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--init", action="store_true", help="create its token account first, if missing")
        parser.add_argument("--json", action="store_true", help="one JSON object, amounts in atomic units")

    def handle(self, *, init: bool, json: bool, **_options: object) -> None:
        try:
            with connect() as chain:
                wallet = ensure_wallet(chain) if init else custodial_wallet(chain)
                term = compare_custody(chain)
        except (DomainError, ChainError) as error:
            raise CommandError(str(error), returncode=COULD_NOT) from error
        if term is None:
            raise CommandError(
                "CUSTODY_KEYPAIR is not set: this network keeps nobody's money", returncode=COULD_NOT
            )
        unclaimed = CustodialDeposit.objects.filter(status="UNCLAIMED").count()
        waiting = Payout.objects.filter(status__in=["PENDING", "SENT"]).count()
        if json:
            facts = {
                "ok": not term.difference_atomic,
                "wallet": str(wallet),
                "wallet_atomic": term.wallet_atomic,
                "spendable_atomic": term.spendable_atomic,
                "payouts_under_way": waiting,
                "payouts_under_way_atomic": term.held_atomic,
                "unclaimed_deposits": unclaimed,
                "unclaimed_atomic": term.unclaimed_atomic,
            }
            self.stdout.write(msgspec.json.encode(facts).decode())
        else:
            self.stdout.write(f"wallet             {wallet}")
            self.stdout.write(f"holds              {format_usdc(term.wallet_atomic):>22} USDC")
            self.stdout.write(f"users may spend    {format_usdc(term.spendable_atomic):>22}")
            self.stdout.write(f"payouts under way  {format_usdc(term.held_atomic):>22}  ({waiting})")
            self.stdout.write(f"unclaimed deposits {format_usdc(term.unclaimed_atomic):>22}  ({unclaimed})")
            self.stdout.write(
                "equal" if not term.difference_atomic else f"DIFFERS by {term.difference_atomic}"
            )
        if term.difference_atomic:
            sys.exit(MISMATCH)
