"""`manage.py network_rules`: shows and changes what holds for the whole network.

Changes reach gateways through the change stream within seconds and are recorded with who and why.
"""

import getpass
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from apps.core.arguments import words
from apps.core.money import InvalidAmount, format_usdc, parse_usdc
from apps.payments.locks import lock_rules
from apps.payments.models import Lease, NetworkRules
from apps.payments.services.enforcement import set_rules


class Command(BaseCommand):
    help = "Show the network's rules, or change them: the mode of solvency, its cap, and the kill switch."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--mode", choices=NetworkRules.Mode.values, help="how gateways make sure of being paid"
        )
        parser.add_argument(
            "--cap", metavar="USDC", help='per agent in optimistic mode; "none" for its bond only'
        )
        switch = parser.add_mutually_exclusive_group()
        switch.add_argument("--halt", action="store_true", help="stop every payment and revoke every lease")
        switch.add_argument("--resume", action="store_true", help="let payments go on")
        parser.add_argument("--reason", type=words(300), help="required for a change")
        parser.add_argument("--by", type=words(150), default=getpass.getuser(), help="default: %(default)s")

    def handle(self, **options: Any) -> None:
        if any((options["mode"], options["cap"], options["halt"], options["resume"])):
            if not options["reason"]:
                raise CommandError("say why, with --reason")
            # What is not named stays as it is now: another operator may be halting the network at this moment.
            with transaction.atomic():
                now = lock_rules(for_change=True)
                changed = set_rules(
                    options["reason"],
                    options["by"],
                    mode=options["mode"] or now.mode,
                    cap_atomic=now.cap_atomic if options["cap"] is None else _cap(options["cap"]),
                    halted=options["halt"] or (now.halted and not options["resume"]),
                )
            self.stdout.write("changed" if changed else "it was like that already")
        rules = NetworkRules.objects.first() or NetworkRules()
        cap = "none" if rules.cap_atomic is None else f"{format_usdc(rules.cap_atomic)} USDC"
        live = Lease.objects.filter(state=Lease.State.LIVE)
        self.stdout.write(
            f"mode     {rules.mode}\ncap      {cap}\nhalted   {'yes' if rules.halted else 'no'}"
        )
        self.stdout.write(f"leases   {live.count()} live, {live.exclude(revoked_at=None).count()} revoked")


def _cap(text: str) -> int | None:
    if text == "none":
        return None
    try:
        return parse_usdc(text)
    except InvalidAmount as error:
        raise CommandError(f"--cap: {error.detail}") from error
