"""`manage.py deploy_program --cluster ...`: deploy or upgrade the program. A dry run without `--yes`."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandParser

from apps.settlement.management.deploying import ARTIFACT, ChainCommand
from apps.settlement.services.clusters import load_key, sol
from machpay.chain import loader
from machpay.chain.client import ChainClient


class Command(ChainCommand):
    help = "Deploy or upgrade the program with the upgradeable loader. Without --yes it only says what it would do."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        key = "a key file, or the key's text"
        parser.add_argument("--program-keypair", required=True, help=f"{key}; its address is the program's")
        parser.add_argument(
            "--upgrade-authority", default=settings.ADMIN_KEYPAIR, help=f"{key}; pays; default ADMIN_KEYPAIR"
        )
        parser.add_argument(
            "--file", type=Path, default=ARTIFACT, help="bytecode; default the committed artifact"
        )
        parser.add_argument(
            "--max-length",
            type=int,
            help="bytes that later versions may have; default the file's; costs rent",
        )

    def handle(self, *, cluster: str, yes: bool, **options: Any) -> None:
        async def work(chain: ChainClient, genesis: str) -> None:
            program = load_key(options["program_keypair"], cluster=cluster, role="the program")
            authority = load_key(options["upgrade_authority"], cluster=cluster, role="the upgrade authority")
            elf = options["file"].read_bytes()
            length = len(elf) if options["max_length"] is None else options["max_length"]
            wanted = await loader.plan(
                chain, program_id=program.pubkey(), authority=authority, elf=elf, max_length=length
            )
            self.say("cluster", f"{cluster} ({genesis})")
            self.say("program", program.pubkey())
            self.say("file", f"{options['file']}, {len(elf)} bytes")
            self.say(
                "upgrade authority",
                f"{authority.pubkey()} has {sol(await chain.lamports(authority.pubkey()))}",
            )
            if wanted.action == "none":
                self.say("result", "these bytes run there already; nothing to do")
                return
            self.say("action", f"{wanted.action}, {wanted.writes} writes")
            meanwhile = f", and {sol(wanted.held)} that comes back" if wanted.held else ""
            self.say("cost", sol(wanted.lamports) + meanwhile)
            if not yes:
                self.say("result", "dry run: nothing was sent; repeat with --yes")
                return
            buffer = loader.buffer_keypair(authority, program.pubkey(), elf).pubkey()
            paid = await chain.lamports(buffer)
            await self.require_lamports(chain, authority.pubkey(), wanted.lamports + wanted.held - paid)
            signature = await loader.deploy(
                chain,
                program=program,
                authority=authority,
                elf=elf,
                max_length=length,
                report=lambda line: self.say("progress", line),
            )
            self.say("result", f"{wanted.action} by {signature}")

        self.on_chain(cluster, work)
