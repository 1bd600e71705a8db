"""What the payments tests are made of: keys, a network, signed payments and chain accounts."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.chain.accounts import AgentAccount, Channel, GatewayAccount
from machpay.chain.client import Snapshot
from machpay.chain.network import Network
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce, nonce_unix_ms
from machpay.protocol.receipts import Receipt
from machpay.protocol.settlements import ResolvedPayment

NETWORK = Network(Pubkey.new_unique(), Pubkey.new_unique(), Hash.new_unique())
MINT = str(NETWORK.mint)


@dataclass(slots=True)
class Party:
    """A gateway with its vendor, or an agent: whoever signs."""

    key: SigningKey = field(default_factory=SigningKey.generate)
    vendor: Pubkey = field(default_factory=Pubkey.new_unique)

    @property
    def pubkey(self) -> str:
        return self.key.pubkey

    def account(self) -> GatewayAccount:
        return GatewayAccount(255, False, self.key.public, self.vendor, 0, 0)


@dataclass(slots=True)
class Payer:
    """Pays one gateway like a client and a gateway together would: totals grow with every payment."""

    agent: SigningKey
    gateway: Party
    cumulative: int = 0
    served: int = 0
    seq: int = 0

    @property
    def channel(self) -> Pubkey:
        return NETWORK.channel(self.agent.public, self.gateway.key.public)

    def pay(
        self,
        amount: int,
        *,
        charged: int | None = None,
        nonce: UUID | None = None,
        cumulative: int | None = None,
        receipt: bool = True,
    ) -> ResolvedPayment:
        """A resolved payment of `amount`, charged in full unless said otherwise; `charged=0` is void."""
        charge = amount if charged is None else charged
        self.cumulative = self.cumulative + amount if cumulative is None else cumulative
        self.served += charge
        self.seq += 1
        nonce = nonce or new_nonce()
        deadline = nonce_unix_ms(nonce) // 1000 + 60
        intent = PaymentIntent(self.channel, self.cumulative, nonce, amount, deadline, bytes(32))
        now = int(time.time())
        status = 200 if charge else 500
        return ResolvedPayment(
            agent=self.agent.public,
            gateway=self.gateway.key.public,
            vendor=self.gateway.vendor,
            intent=intent,
            signature=intent.sign(self.agent),
            charged=charge,
            http_status=status,
            served_total=self.served if receipt else None,
            served_at=now if receipt else None,
            receipt=Receipt(intent.digest, status, charge, self.served, now).sign(self.gateway.key)
            if receipt
            else None,
            seq=self.seq,
        )


def agent_account(
    agent: Pubkey, *, deposited: int, paid: int = 0, slashed: bool = False, **fields: int
) -> AgentAccount:
    values = {
        "open_claims": 0,
        "pending_withdrawal": 0,
        "withdrawal_unlock": 0,
        "forfeited": 0,
        "reporter_set_aside": 0,
        "window_end": 0,
        "withdrawn_total": 0,
        "swept_total": 0,
        **fields,
    }
    return AgentAccount(
        bump=255,
        slashed=slashed,
        agent=agent,
        mint=NETWORK.mint,
        owner=agent,
        bond=deposited - paid,
        reporter=None,
        deposited_total=deposited,
        paid_total=paid,
        **values,
    )


def channel_account(agent: Pubkey, gateway: Party, *, settled: int, owed: int = 0, claim: int = 0) -> Channel:
    return Channel(255, agent, gateway.key.public, gateway.vendor, NETWORK.mint, settled, owed, claim, 0)


def chain_state(
    slot: int,
    agents: Iterable[AgentAccount] = (),
    channels: Iterable[Channel] = (),
    gateways: Iterable[Party] = (),
) -> Snapshot:
    """What the chain says at one finalised slot."""
    return Snapshot(
        slot,
        agents={account.agent: account for account in agents},
        channels={NETWORK.channel(account.agent, account.gateway): account for account in channels},
        gateways={party.key.public: party.account() for party in gateways},
    )
