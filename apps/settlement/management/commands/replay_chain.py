"""`manage.py replay_chain --from-slot N [--json]`: read the program's history and every account again."""

import sys
from dataclasses import asdict

import msgspec
from django.core.management.base import BaseCommand, CommandError, CommandParser

from apps.core.errors import DomainError
from apps.settlement.chain import connect
from apps.settlement.services.replay import Replayed, replay
from machpay.chain.errors import ChainError

DIFFERS = 1
NOT_REPLAYED = 2


class Command(BaseCommand):
    help = (
        "Read the program's history from a slot on, and every account, again. What is right stays as it is."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--from-slot", type=int, required=True, help="0 for the whole history")
        parser.add_argument("--json", action="store_true", help="one JSON object")

    def handle(self, *, from_slot: int, json: bool, **options: object) -> None:
        if from_slot < 0:
            raise CommandError("--from-slot is 0 or more", returncode=NOT_REPLAYED)
        try:
            with connect() as chain:
                found = replay(chain, from_slot=from_slot)
        except (DomainError, ChainError) as error:
            raise CommandError(str(error), returncode=NOT_REPLAYED) from error
        if json:
            self.stdout.write(msgspec.json.encode(asdict(found)).decode())
        else:
            self._show(found)
        if found.missing or found.differing:
            sys.exit(DIFFERS)

    def _show(self, found: Replayed) -> None:
        self.stdout.write(f"{found.listed} transactions from slot {found.from_slot} on")
        self.stdout.write(f"{found.events} events that were not stored yet")
        for signature in found.missing:
            self.stdout.write(f"not shown by the RPC server: {signature}")
        for signature in found.differing:
            self.stdout.write(f"stored with other events than the chain shows: {signature}")
        moved = "some money moved" if found.moved else "no money moved"
        self.stdout.write(f"the ledger follows slot {found.slot}: {moved}")
