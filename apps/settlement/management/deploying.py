"""What the deployment commands share: arguments, one connection, and errors as one line."""

import asyncio
from argparse import ArgumentTypeError
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from solders.hash import Hash
from solders.pubkey import Pubkey

from apps.settlement.errors import DeploymentRefused
from apps.settlement.services.clusters import CLUSTERS, require_cluster, sol
from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError
from machpay.chain.network import Network

ARTIFACT: Final = Path(settings.BASE_DIR) / "contracts" / "artifacts" / "machpay.so"


class ChainCommand(BaseCommand):
    """A command on the cluster behind SOLANA_RPC_URL, which `--cluster` has to name."""

    changes_the_chain = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--cluster", choices=CLUSTERS, required=True, help="which cluster this must be")
        if self.changes_the_chain:
            parser.add_argument(
                "--yes", action="store_true", help="do it; without, only say what would be done"
            )

    def on_chain(self, cluster: str, work: Callable[[ChainClient, str], Awaitable[None]]) -> None:
        """Run `work(chain, genesis hash)` on the cluster, if it is the one named."""

        async def connected() -> None:
            price = settings.PRIORITY_PRICE_MAX
            async with ChainClient(settings.SOLANA_RPC_URL, priority_price_max=price) as chain:
                await work(chain, await require_cluster(chain, cluster))

        if not settings.SOLANA_RPC_URL:
            raise CommandError("SOLANA_RPC_URL is not set")
        try:
            asyncio.run(connected())
        except DeploymentRefused as error:
            raise CommandError(error.detail) from error
        except ChainError as error:
            raise CommandError(f"the chain refused: {error}") from error
        except (ValueError, OSError) as error:
            raise CommandError(str(error)) from error

    async def require_lamports(self, chain: ChainClient, payer: Pubkey, needed: int) -> None:
        """Before anything is paid: the payer has what all of it costs. Raises `DeploymentRefused`."""
        held = await chain.lamports(payer)
        if held < needed:
            raise DeploymentRefused(f"{payer} has {sol(held)}, {sol(needed)} are needed")

    def say(self, name: str, value: Any) -> None:
        self.stdout.write(f"{name:<18} {value}")


def address_argument(text: str) -> Pubkey:
    """The address given as an option, for argparse."""
    try:
        return Pubkey.from_string(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not an address") from None


def address(setting: str) -> Pubkey:
    """The address in a setting. Raises `CommandError`."""
    value = getattr(settings, setting)
    try:
        return Pubkey.from_string(value)
    except ValueError as error:
        raise CommandError(f"{setting} is not an address: {value!r}") from error


def configured_network(genesis: str) -> Network:
    """The network that the settings name on the cluster of this genesis. Raises `CommandError`."""
    return Network(address("MACHPAY_PROGRAM_ID"), address("USDC_MINT"), Hash.from_string(genesis))
