"""Recon against the session's local chain and database. Chain, bytecode, PostgreSQL and Redis are the real ones."""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
import pytest

from apps.ledger import chart
from apps.ledger.selectors import balance, trial_balance
from apps.payments.models import Channel, PaymentIntent, Settlement
from apps.payments.services.chain_mirror import Applied
from apps.payments.services.intake import record_batch
from apps.payments.verification import Verified, check_items
from apps.settlement.chain import ChainSession, close_connections, connect, keep_connections
from apps.settlement.services.follow import follow
from apps.settlement.services.outcome import Verdict
from apps.settlement.services.settle import settle
from apps.settlement.services.sync import sync_chain
from devnet.offers import Offer
from machpay.chain.instructions import ChannelSettlement, settle_cumulative
from machpay.protocol.keys import SigningKey
from machpay.protocol.settlements import ResolvedPayment, to_item
from tests.support.chain import SLOT_MS, LocalChain, Payer, chain_settings, module_chain

# What a test leaves on the chain, such as what a vendor is owed, is no business of another file.
__all__ = ["chain_settings", "module_chain"]

T = TypeVar("T")
BOND = 50_000_000


class Recon:
    """What beat's tasks do, one step at a time, and what the books say afterwards."""

    def __init__(self, chain: LocalChain) -> None:
        self.chain = chain
        self.mint = str(chain.network.mint)

    # ---- who pays whom

    def payers(self, count: int, offer: Offer, *, bond_atomic: int = BOND) -> list[Payer]:
        """New agents that pay `offer`'s gateway; recon has seen their bonds."""
        agents = self.chain.new_agents(count, bond_atomic=bond_atomic)
        self.catch_up()
        return [self.chain.payer(agent, offer) for agent in agents]

    def catch_up(self) -> None:
        """Mirror everything that is confirmed by now."""
        self.chain.wait_until_final()
        self.sync()

    # ---- steps

    def run(self, service: Callable[[ChainSession], T]) -> T:
        with connect() as session:
            return service(session)

    def sync(self) -> Applied:
        return self.run(sync_chain)

    def settle(self) -> list[int]:
        return self.run(settle)

    def follow(self) -> dict[Verdict, int]:
        return self.run(follow)

    def deliver(self, *payments: ResolvedPayment) -> None:
        """Hand payments of one gateway to intake, as the relayer does."""
        first = payments[0]
        raw = [msgspec.Raw(msgspec.json.encode(to_item(payment))) for payment in payments]
        checked = check_items(raw, network=self.chain.network, gateway=first.gateway, now=datetime.now(UTC))
        verified = [item for item in checked if isinstance(item, Verified)]
        assert len(verified) == len(payments)
        results = record_batch(
            mint=self.mint,
            gateway=str(first.gateway),
            vendor=str(first.vendor),
            items=verified,
            vouchers=[],
        )
        assert [result.status for result in results] == ["accepted"] * len(payments)

    def settle_elsewhere(self, payer: Payer, payment: ResolvedPayment, *, up_to: int) -> None:
        """A settlement built and sent without recon, by somebody who holds the relayer's key; confirmed."""
        relayer = self.chain.keys.get("relayer").keypair()
        vendor = self.chain.call(lambda client: client.vendor(payer.vendor))
        assert vendor is not None
        item = ChannelSettlement(
            payer.agent.public, payer.gateway.public, payment.voucher, up_to, create=True
        )
        steps = settle_cumulative(
            self.chain.network,
            relayer=relayer.pubkey(),
            vendor=payer.vendor,
            payout=vendor.payout,
            channels=[item],
        )
        self.chain.call(lambda client: client.send_and_confirm(steps, relayer))

    def rest(self) -> None:
        """Follow and sync until nothing is under way."""
        deadline = time.monotonic() + 120
        while Settlement.objects.filter(paid_atomic=None).exclude(state="FAILED").exists():
            assert time.monotonic() < deadline, list(Settlement.objects.values_list("state", "error"))
            self.follow()
            self.sync()
            time.sleep(SLOT_MS / 1000)

    # ---- what the books say

    def liability(self, agent: SigningKey) -> int:
        return -balance(chart.spent_unsettled(agent.pubkey, self.mint))

    def bond(self, agent: SigningKey) -> int:
        return balance(chart.bond(agent.pubkey, self.mint))

    def unsettled(self, payer: Payer) -> int:
        """Of the payer's vendor at its gateway, all agents together; so is `settled`."""
        return balance(chart.unsettled(str(payer.vendor), payer.gateway.pubkey, self.mint))

    def settled(self, payer: Payer) -> int:
        return balance(chart.settled(str(payer.vendor), payer.gateway.pubkey, self.mint))

    def statuses(self, payer: Payer) -> list[str]:
        """Statuses of the channel's intents in the order they were paid."""
        rows = PaymentIntent.objects.filter(channel=str(payer.channel)).order_by("cumulative_atomic")
        return list(rows.values_list("status", flat=True))

    def channel(self, payer: Payer) -> Channel:
        return Channel.objects.get(address=str(payer.channel))

    def end_backoff(self) -> None:
        """Pretend that the wait after a failed settlement is over."""
        Channel.objects.update(settle_after=None)

    def states(self) -> Sequence[str]:
        """States of all settlements in the order they were stored."""
        return list(Settlement.objects.order_by("id").values_list("state", flat=True))


@pytest.fixture(scope="package")
def connections() -> Iterator[None]:
    """What recon kept open for its next steps is closed with the last test."""
    yield
    close_connections()


@pytest.fixture
def recon(transactional_db, chain_settings: LocalChain, connections: None):
    """Recon on an empty database that has seen the chain once; the books balance at the end of every test."""
    # Like a worker process: a client per step would cost more than the step.
    keep_connections()
    made = Recon(chain_settings)
    made.sync()
    yield made
    assert [book for book in trial_balance() if book.total_atomic] == []
