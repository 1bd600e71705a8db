"""`manage.py initialize_bond --cluster ...`: create GlobalBond and vault of USDC_MINT. A dry run without `--yes`."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser
from solders.pubkey import Pubkey

from apps.settlement.errors import DeploymentRefused
from apps.settlement.management.deploying import ChainCommand, address_argument, configured_network
from apps.settlement.services.clusters import MAINNET_USDC, load_key, sol
from machpay.chain.accounts import GLOBAL_BOND_LENGTH
from machpay.chain.client import ChainClient
from machpay.chain.instructions import BondConfig
from machpay.chain.setup import differences, ensure_bond, initialize_step
from machpay.chain.tokens import TOKEN_ACCOUNT_LENGTH

SIGNATURE_FEE = 5_000


class Command(ChainCommand):
    help = (
        "Create the bond of USDC_MINT under MACHPAY_PROGRAM_ID. Without --yes it only says what it would do."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        key = "a key file, or the key's text"
        parser.add_argument(
            "--upgrade-authority", default=settings.ADMIN_KEYPAIR, help=f"{key}; pays; default ADMIN_KEYPAIR"
        )
        parser.add_argument(
            "--relayer",
            required=True,
            type=address_argument,
            help="address of the key that signs settlements",
        )
        parser.add_argument(
            "--admin",
            type=address_argument,
            help="address that may change the configuration; default the authority",
        )
        parser.add_argument(
            "--treasury", type=address_argument, help="wallet that forfeited bonds go to; default the admin"
        )
        parser.add_argument("--min-bond", type=int, required=True, help="atomic units")
        parser.add_argument("--timelock", type=int, default=86_400, help="seconds; default %(default)s")
        parser.add_argument("--claim-delay", type=int, default=43_200, help="seconds; default %(default)s")
        parser.add_argument("--bond-cap", type=int, default=0, help="atomic units per agent; 0 for none")
        parser.add_argument("--reporter-bps", type=int, default=1_000, help="1/10,000; default %(default)s")
        parser.add_argument(
            "--allow-list", action="store_true", help="first deposits need the admin's signature"
        )

    def handle(self, *, cluster: str, yes: bool, **options: Any) -> None:
        async def work(chain: ChainClient, genesis: str) -> None:
            chain.network = configured_network(genesis)
            authority = load_key(options["upgrade_authority"], cluster=cluster, role="the upgrade authority")
            admin = options["admin"] or authority.pubkey()
            config = BondConfig(
                admin=admin,
                relayer=options["relayer"],
                treasury=options["treasury"] or admin,
                min_bond=options["min_bond"],
                timelock=options["timelock"],
                claim_delay=options["claim_delay"],
                agent_bond_cap=options["bond_cap"],
                reporter_bps=options["reporter_bps"],
                allow_list=options["allow_list"],
            )
            if cluster == "mainnet":
                _require_production(chain.network.mint, config)
            self.say("cluster", f"{cluster} ({genesis})")
            self.say("program", chain.network.program_id)
            self.say("mint", chain.network.mint)
            self.say("bond", chain.network.bond())
            existing = await chain.bond()
            if existing is not None:
                self.say("result", "initialised already; nothing to do")
                for line in differences(existing, config):
                    self.say("differs", f"{line} (set_config changes it)")
                return
            rent = await chain.rent(GLOBAL_BOND_LENGTH) + await chain.rent(TOKEN_ACCOUNT_LENGTH)
            for name in BondConfig.__slots__:
                self.say(name, getattr(config, name))
            self.say("payer", f"{authority.pubkey()} has {sol(await chain.lamports(authority.pubkey()))}")
            self.say("cost", sol(rent + SIGNATURE_FEE))
            await self.require_lamports(chain, authority.pubkey(), rent + SIGNATURE_FEE)
            if not yes:
                step = initialize_step(chain, payer=authority, upgrade_authority=authority, config=config)
                await chain.try_out(step, authority)
                self.say("result", "dry run: it would succeed; nothing was sent; repeat with --yes")
                return
            signature = await ensure_bond(chain, payer=authority, upgrade_authority=authority, config=config)
            self.say("result", f"initialised by {signature}")

        self.on_chain(cluster, work)


def _require_production(mint: Pubkey, config: BondConfig) -> None:
    """On mainnet: the real USDC, and no key with two jobs that belong apart."""
    if mint != MAINNET_USDC:
        raise DeploymentRefused(f"USDC_MINT is {mint}, on mainnet it is {MAINNET_USDC}")
    if config.relayer in (config.admin, config.treasury):
        raise DeploymentRefused("the relayer's key is on a server: it must be neither admin nor treasury")
