"""Pays reporters and the treasury what vendors left of forfeited bonds, once the slashing window is over.

Anybody may sweep; nobody has to, so recon does. The bytes are followed and sent again like those of every settlement.
"""

from typing import Final

import structlog
from solders.pubkey import Pubkey

from apps.payments.services.sweeps import store_sweep, sweepable
from apps.settlement.chain import ChainSession, relayer_keypair
from apps.settlement.services.send import Outgoing, send_all
from apps.settlement.services.signing import Signing
from machpay.chain.accounts import AgentAccount
from machpay.chain.instructions import sweep_forfeited
from machpay.chain.tokens import associated_token_address, create_ata_idempotent

log = structlog.get_logger(__name__)

SWEEPS_PER_RUN: Final = 20
# Sweeping takes 5,000 units, creating a token account some 25,000 each, more for an unlucky address.
COMPUTE_UNIT_LIMIT: Final = 120_000


def sweep(chain: ChainSession) -> list[str]:
    """Sweep what is ready; returns the agents for which a transaction was stored. Safe to repeat and in several
    workers. Raises `SettlementPaused`, `RpcUnavailable`."""
    relayer_keypair()
    found = sweepable(chain_time=chain.run(chain.client.unix_timestamp()), limit=SWEEPS_PER_RUN)
    if not found:
        return []
    signing = Signing.prepare(chain)
    outgoing, agents = [], []
    for agent in found:
        account = chain.run(chain.client.agent(Pubkey.from_string(agent), "finalized"))
        amount = 0 if account is None else _free(account)
        if account is None or account.reporter is None or not amount:
            continue
        mint, relayer = chain.network.mint, signing.relayer.pubkey()
        owners = (account.reporter, signing.bond.treasury)
        wallets = [associated_token_address(owner, mint) for owner in owners]
        steps = [create_ata_idempotent(payer=relayer, owner=owner, mint=mint) for owner in owners]
        steps.append(
            sweep_forfeited(
                chain.network,
                agent=account.agent,
                reporter_token_account=wallets[0],
                treasury_token_account=wallets[1],
            )
        )
        signed = signing.sign(steps, compute_units=COMPUTE_UNIT_LIMIT)
        stored = store_sweep(
            agent,
            planned_atomic=amount,
            raw_transaction=signed.raw,
            signature=signed.signature,
            last_valid_block_height=signed.last_valid_block_height,
        )
        if stored is not None:
            log.info("sweep_stored", agent=agent, amount_atomic=amount, signature=signed.signature)
            outgoing.append(Outgoing(stored, signed.raw, send_count=0))
            agents.append(agent)
    send_all(chain, outgoing)
    return agents


def _free(account: AgentAccount) -> int:
    """What the program would pay: the reporter's set-aside, and what is neither that nor asked for by open claims."""
    rest = account.forfeited - account.reporter_set_aside - account.open_claims
    return account.reporter_set_aside + max(rest, 0)
