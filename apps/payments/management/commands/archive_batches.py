"""`manage.py archive_batches [--older-than-days N] [--dry-run] [--verify] [--json]`: leaves of old batches to files."""

import sys
from dataclasses import asdict
from datetime import timedelta

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from apps.core.arguments import CENTURY_DAYS, number
from apps.core.errors import DomainError
from apps.payments.services.archives import Archived, archivable, archive_batches, damaged_archives

DAMAGED = 1
_BAR_WIDTH = 30


class Command(BaseCommand):
    help = (
        "Move the leaves of committed batches from the database to files in BATCH_ARCHIVE_DIR; proofs are read from"
        " both. Safe to repeat and to interrupt. --verify checks every file instead and exits with 1 if one is damaged."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--older-than-days", type=number(0, CENTURY_DAYS), default=365.0, help="default 365"
        )
        parser.add_argument("--dry-run", action="store_true", help="say what would be written")
        parser.add_argument("--verify", action="store_true", help="check the files that were written")
        parser.add_argument("--json", action="store_true", help="one JSON object")

    def handle(
        self, *, older_than_days: float, dry_run: bool, verify: bool, json: bool, **options: object
    ) -> None:
        before = timezone.now() - timedelta(days=older_than_days)
        try:
            if verify:
                self._verify(json)
            elif dry_run:
                runs = archivable(before=before)
                batches = sum(len(run) for run in runs)
                self._say(
                    json,
                    {"files": len(runs), "batches": batches, "dry_run": True},
                    f"{batches} batches would be written to {len(runs)} files",
                )
            else:
                self._show(json, archive_batches(before=before, progress=self._bar))
        except DomainError as error:
            raise CommandError(str(error)) from error

    def _verify(self, json: bool) -> None:
        found = damaged_archives(progress=self._bar)
        lines = [f"{name}: {reason}" for name, reason in found.items()]
        self._say(json, {"damaged": found}, "\n".join(lines) or "all archives are whole")
        if found:
            sys.exit(DAMAGED)

    def _show(self, json: bool, done: list[Archived]) -> None:
        lines = [f"{each.name}: {each.batches} batches, {each.leaves} payments" for each in done]
        self._say(json, {"files": [asdict(each) for each in done]}, "\n".join(lines) or "nothing to archive")

    def _say(self, json: bool, found: dict[str, object], text: str) -> None:
        self.stdout.write(msgspec.json.encode(found).decode() if json else text)

    def _bar(self, done: int, total: int) -> None:
        """A bar that draws over itself, on a terminal only."""
        if self.stdout.isatty() and total:
            filled = _BAR_WIDTH * done // total
            bar = "#" * filled + "-" * (_BAR_WIDTH - filled)
            self.stdout.write(f"\r[{bar}] {done}/{total} files", ending="\r" if done < total else "\n")
