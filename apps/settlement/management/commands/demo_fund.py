"""`manage.py demo_fund <agent-pubkey> <atomic>`: SOL and test USDC for any key on the demo's chain."""

import asyncio
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from solders.pubkey import Pubkey

from apps.core.money import format_usdc
from apps.settlement.errors import FundingRefused
from apps.settlement.services.fund import LAMPORTS_PER_SOL, fund
from machpay.chain.errors import ChainError


class Command(BaseCommand):
    help = "Give a key SOL and test USDC on the demo's chain, and print its balances."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("agent", help="the key, base58")
        parser.add_argument("atomic", type=int, help="atomic units of test USDC (1 USDC = 1000000)")

    def handle(self, *, agent: str, atomic: int, **_options: Any) -> None:
        try:
            owner = Pubkey.from_string(agent)
        except ValueError as error:
            raise CommandError(f"not a public key: {agent}") from error
        try:
            funded = asyncio.run(fund(owner=owner, amount_atomic=atomic))
        except FundingRefused as error:
            raise CommandError(error.detail) from error
        except ChainError as error:
            raise CommandError(f"the chain refused: {error}") from error
        self.stdout.write(f"agent   {owner}")
        self.stdout.write(f"wallet  {funded.wallet}")
        self.stdout.write(f"SOL     {funded.lamports // LAMPORTS_PER_SOL}")
        self.stdout.write(f"USDC    {format_usdc(funded.balance_atomic)} ({funded.balance_atomic} atomic)")
