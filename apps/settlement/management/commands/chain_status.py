"""`manage.py chain_status --cluster ...`: what is deployed, who rules it, and whether the vault covers every bond."""

from pathlib import Path
from typing import Any

from apps.core.money import format_usdc
from apps.settlement.management.deploying import ARTIFACT, ChainCommand, configured_network
from apps.settlement.services.clusters import sol
from machpay.chain.client import ChainClient
from machpay.chain.loader import program_data


class Command(ChainCommand):
    help = "Show program, upgrade authority, configuration and funds on the cluster. Changes nothing."
    changes_the_chain = False

    def handle(self, *, cluster: str, **_options: Any) -> None:
        async def work(chain: ChainClient, genesis: str) -> None:
            network = chain.network = configured_network(genesis)
            self.say("cluster", f"{cluster} ({genesis})")
            self.say(
                "slot", f"{await chain.slot('confirmed')} confirmed, {await chain.slot('finalized')} final"
            )
            self.say("program", network.program_id)
            deployed = await program_data(chain, network.program_id)
            if deployed is None:
                self.say("bytecode", "not deployed")
                return
            same = deployed.runs(Path(ARTIFACT).read_bytes())
            self.say("bytecode", "is the committed artifact" if same else "is NOT the committed artifact")
            self.say("upgrade authority", deployed.upgrade_authority or "none: final")
            snapshot = await chain.program_accounts("finalized")
            bond = snapshot.bond
            if bond is None:
                self.say("bond", "not initialised for this mint")
                return
            self.say("bond", network.bond())
            self.say(
                "admin", f"{bond.admin}" + (f", proposed {bond.pending_admin}" if bond.pending_admin else "")
            )
            self.say("relayer", f"{bond.relayer} has {sol(await chain.lamports(bond.relayer))}")
            self.say("treasury", bond.treasury)
            self.say("minimum bond", f"{format_usdc(bond.min_bond)} USDC")
            self.say("timelock", f"{bond.timelock} s, claim delay {bond.claim_delay} s")
            self.say("deposits", "paused" if bond.deposits_paused else "open")
            self.say("agents", f"{len(snapshot.agents)}, channels {len(snapshot.channels)}")
            agents, channels = snapshot.agents.values(), snapshot.channels.values()
            held = sum(account.bond + account.forfeited for account in agents)
            due = held + sum(channel.owed for channel in channels)
            self.say("bonds and owed", f"{format_usdc(due)} USDC at slot {snapshot.slot}")
            vault, slot = await chain.token_balance_at(network.vault(), "finalized")
            self.say("vault", f"{format_usdc(vault)} USDC at slot {slot}")

        self.on_chain(cluster, work)
