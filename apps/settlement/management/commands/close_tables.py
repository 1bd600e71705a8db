"""`manage.py close_tables [--idle-days N] [--yes]`: get idle lookup tables' rent back. A dry run without `--yes`."""

from datetime import timedelta

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from apps.core.arguments import CENTURY_DAYS, number
from apps.core.errors import DomainError
from apps.settlement.chain import connect
from apps.settlement.services.clusters import sol
from apps.settlement.services.table_closing import ClosingTable, close_tables
from machpay.chain.errors import ChainError


class Command(BaseCommand):
    help = (
        "Close the relayer's lookup tables that this database does not name: those it drops now, because no channel in"
        " them was paid on for --idle-days days, and any other. A table is deactivated first and closed by a run some"
        " five minutes later. Without --yes it only says what it would do."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--idle-days", type=number(0, CENTURY_DAYS), default=90, help="default %(default)s"
        )
        parser.add_argument("--yes", action="store_true", help="do it; without, only say what would be done")

    def handle(self, *, idle_days: float, yes: bool, **_options: object) -> None:
        idle_since = timezone.now() - timedelta(days=idle_days)
        found = False
        try:
            with connect() as chain:
                for table in close_tables(chain, idle_since=idle_since, dry_run=not yes):
                    found = True
                    self.stdout.write(_line(table))
        except (DomainError, ChainError) as error:
            raise CommandError(f"{error}; what was begun is finished by the next run") from error
        if not found:
            self.stdout.write("no lookup table to close")
        elif not yes:
            self.stdout.write("dry run: nothing was sent; repeat with --yes")


def _line(table: ClosingTable) -> str:
    wait = f" about {table.slots_left} slots" if table.action == "wait" else ""
    refused = f" (refused: {table.refused})" if table.refused else ""
    return f"{table.address}  {table.action}{wait}  {sol(table.lamports)}{refused}"
