"""`manage.py import_settlements --file settlements.jsonl [--dry-run]`: take over payments from a gateway's file."""

import sys
from pathlib import Path
from typing import Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.core.errors import DomainError
from apps.payments.services.network import current_network
from apps.payments.services.recovery import Survey, import_items, survey

NOT_EVERYTHING: Final = 1
_BAR_WIDTH: Final = 30


class Command(BaseCommand):
    help = (
        "Import payments from a JSONL file: a gateway's export or its dead letters. Safe to repeat and to interrupt;"
        " exits with 1 if some lines could not be imported."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--file", type=Path, required=True, help="one settlement item per line")
        parser.add_argument("--dry-run", action="store_true", help="check and count only")

    def handle(self, *, file: Path, dry_run: bool, **options: object) -> None:
        try:
            refused = self._run(file, dry_run)
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error}") from error
        except DomainError as error:
            raise CommandError(str(error)) from error
        if refused:
            sys.exit(NOT_EVERYTHING)

    def _run(self, file: Path, dry_run: bool) -> int:
        network = current_network()
        with file.open("rb") as lines:
            found = survey(lines, network=network)
        self._show(found)
        if dry_run or not found.new:
            self.stdout.write("\nDry run: nothing was imported" if dry_run else "\nNothing to import")
            return found.refused
        with file.open("rb") as lines:
            done = import_items(lines, network=network, progress=lambda read: self._bar(read, found.found))
        self.stdout.write("Importing... done")
        self.stdout.write(f"Successfully imported {done.new} settlements")
        return done.refused

    def _show(self, found: Survey) -> None:
        self.stdout.write(f"Found {found.found} settlements in file")
        self.stdout.write(f"- {found.processed} already processed (skipping)")
        self.stdout.write(f"- {found.new} new settlements to import")
        if found.refused:
            self.stdout.write(f"- {found.refused} cannot be imported")
            for problem in found.problems:
                self.stdout.write(f"    line {problem.line}: {problem.reason}")
            if found.refused > len(found.problems):
                self.stdout.write(f"    and {found.refused - len(found.problems)} more")

    def _bar(self, read: int, total: int) -> None:
        """A bar that draws over itself; a file or a pipe gets the last line only."""
        if not self.stdout.isatty():
            return
        filled = _BAR_WIDTH * read // total
        bar = "#" * filled + "-" * (_BAR_WIDTH - filled)
        self.stdout.write(f"\rImporting... [{bar}] {read}/{total}", ending="\r" if read < total else "\n")
        self.stdout.flush()
