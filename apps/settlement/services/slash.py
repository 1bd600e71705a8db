"""Shows double signing to the chain, which then forfeits the agent's bond.

    evidence -> sign and store (one transaction, no I/O) -> commit -> send -> follow -> the mirror shows the slash

The bytes are followed and sent again like those of every settlement. Anybody may be quicker; the agent is slashed once.
"""

from typing import Any, Final

import msgspec
import structlog
from solders.pubkey import Pubkey

from apps.payments.services import equivocations
from apps.payments.services.equivocations import Provable
from apps.settlement.chain import ChainSession
from apps.settlement.services.send import Outgoing, send_all
from apps.settlement.services.signing import Signing
from machpay.chain.instructions import SignedIntent, slash_equivocation
from machpay.chain.network import Network
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.settlements import decode_item, parse_item

log = structlog.get_logger(__name__)

PROOFS_PER_RUN: Final = 20
# 21,000 are taken; deriving an unlucky address takes 1,500 more per bump.
COMPUTE_UNIT_LIMIT: Final = 80_000


def slash(chain: ChainSession) -> list[str]:
    """Take over what became of earlier proofs and send the next ones; returns the agents proofs were sent for.

    Several workers may run it at once: an agent has one proof under way. Raises `SettlementPaused`, `RpcUnavailable`.
    """
    for agent in equivocations.follow():
        log.warning("agent_slashed", agent=agent)
    found = equivocations.provable(limit=PROOFS_PER_RUN)
    if not found:
        return []
    signing = Signing.prepare(chain)
    outgoing, agents = [], []
    for each in found:
        steps = slash_equivocation(
            chain.network,
            reporter=signing.relayer.pubkey(),
            agent=Pubkey.from_string(each.agent),
            first=_half(chain.network, each, each.halves[0]),
            second=_half(chain.network, each, each.halves[1]),
        )
        signed = signing.sign(steps, compute_units=COMPUTE_UNIT_LIMIT)
        stored = equivocations.store_proof(
            each,
            raw_transaction=signed.raw,
            signature=signed.signature,
            last_valid_block_height=signed.last_valid_block_height,
        )
        if stored is not None:
            log.warning("slash_submitted", agent=each.agent, signature=signed.signature)
            outgoing.append(Outgoing(stored, signed.raw, send_count=0))
            agents.append(each.agent)
    send_all(chain, outgoing)
    return agents


def _half(network: Network, found: Provable, item: dict[str, Any]) -> SignedIntent:
    """Evidence is kept as the item that the gateway delivered."""
    gateway = parse_pubkey(item["gateway"], "gateway")
    channel = network.channel(Pubkey.from_string(found.agent), gateway)
    payment = parse_item(decode_item(msgspec.json.encode(item)), gateway=gateway, channel=channel)
    return SignedIntent(gateway, payment.intent, payment.signature)
