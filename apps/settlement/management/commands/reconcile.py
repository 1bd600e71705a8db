"""`manage.py reconcile [--json] [--lines]`: does the ledger equal the chain, term by term, at one finalised slot?"""

import sys
from dataclasses import asdict

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.core.errors import DomainError
from apps.core.money import format_usdc
from apps.settlement.chain import connect
from apps.settlement.services.reconcile import Reconciliation, reconcile
from machpay.chain.errors import ChainError

MISMATCH = 1
NOT_COMPARED = 2


class Command(BaseCommand):
    help = "Compare vault, accounts and ledger at one finalised slot. Exits with 1 if they differ, 2 if it cannot look."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object, amounts in atomic units")
        parser.add_argument(
            "--lines", action="store_true", help="every agent's and vendor's part of each term"
        )

    def handle(self, *, json: bool, lines: bool, **options: object) -> None:
        try:
            with connect() as chain:
                found = reconcile(chain)
        except (DomainError, ChainError) as error:
            raise CommandError(str(error), returncode=NOT_COMPARED) from error
        if json:
            told = {
                "ok": found.ok,
                **asdict(found),
                "differences": [asdict(each) for each in found.differences],
            }
            if not lines:
                del told["lines"]
            self.stdout.write(msgspec.json.encode(told).decode())
        else:
            self._show(found, lines)
        if not found.ok:
            sys.exit(MISMATCH)

    def _show(self, found: Reconciliation, lines: bool) -> None:
        self.stdout.write(f"finalised slot {found.slot}, USDC")
        self.stdout.write(f"{'':<16}{'chain':>20}{'ledger':>22}")
        for term in found.terms:
            mark = "" if term.chain_atomic == term.ledger_atomic else "  DIFFERS"
            chain, ledger = format_usdc(term.chain_atomic), format_usdc(term.ledger_atomic)
            self.stdout.write(f"{term.name:<16}{chain:>20}{ledger:>22}{mark}")
        self.stdout.write(f"{'vault':<16}{format_usdc(found.vault_atomic):>20}")
        self.stdout.write(f"{'surplus':<16}{format_usdc(found.surplus_atomic):>20}")
        self.stdout.write(f"{'trial balance':<16}{'':>20}{format_usdc(found.trial_balance_atomic):>22}")
        if found.custody is not None:
            self.stdout.write(f"{'custody':<16}{format_usdc(found.custody.wallet_atomic):>20}")
            self.stdout.write(f"{'  difference':<16}{format_usdc(found.custody.difference_atomic):>20}")
        for each in found.lines if lines else found.differences:
            where = f"{each.owner} at {each.gateway}" if each.gateway else each.owner
            mark = "" if each.chain_atomic == each.ledger_atomic else "  DIFFERS"
            self.stdout.write(
                f"{each.term} of {where}: chain {each.chain_atomic}, ledger {each.ledger_atomic} atomic units{mark}"
            )
        self.stdout.write("equal" if found.ok else "NOT EQUAL")
