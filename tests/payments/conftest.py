"""A bound database, parties and short cuts to the services. After every test the books balance."""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import pytest

from apps.ledger import chart
from apps.ledger.selectors import balance, trial_balance
from apps.payments.models import Channel, PaymentIntent
from apps.payments.services import gateways, network
from apps.payments.services.gateways import LogPosition
from apps.payments.services.intake import record_batch
from apps.payments.verification import Verified, check_items
from machpay.protocol.intents import Voucher
from machpay.protocol.keys import SigningKey
from machpay.protocol.settlements import ItemResult, ResolvedPayment, to_item
from tests.payments.factories import MINT, NETWORK, Party, Payer
from tests.support.chain import local_chain

__all__ = ["local_chain"]


@pytest.fixture(autouse=True)
def books_balance(request):
    yield
    if request.node.get_closest_marker("django_db"):
        assert [total.total_atomic for total in trial_balance() if total.total_atomic] == []


@pytest.fixture
def bound(request):
    """The database belongs to the tests' network."""
    request.getfixturevalue("db")
    network.bind(NETWORK)


@pytest.fixture
def gateway(bound) -> Party:
    """A registered gateway."""
    return registered()


@pytest.fixture
def payer(gateway) -> Payer:
    """An agent that pays `gateway`."""
    return Payer(SigningKey.generate(), gateway)


def registered() -> Party:
    party = Party()
    gateways.remember([party.account()])
    return party


def verified(payments: Sequence[ResolvedPayment]) -> list[Verified]:
    """Payments as they come out of the relayer's checks, through their wire form."""
    raw = [msgspec.Raw(msgspec.json.encode(to_item(payment))) for payment in payments]
    items: list[Verified] = []
    for item in check_items(raw, network=NETWORK, gateway=payments[0].gateway, now=datetime.now(UTC)):
        assert isinstance(item, Verified)
        items.append(item)
    return items


def deliver(
    *payments: ResolvedPayment, vouchers: Sequence[Voucher] = (), position: LogPosition | None = None
) -> list[ItemResult]:
    """Hand payments of one gateway to intake."""
    first = payments[0]
    return record_batch(
        mint=MINT,
        gateway=str(first.gateway),
        vendor=str(first.vendor),
        items=verified(payments),
        vouchers=vouchers,
        position=position,
    )


def stored(channel: object) -> list[tuple[str, int, int]]:
    """`(status, charged, charged_through)` of a channel's intents, in the gateway's order."""
    rows = PaymentIntent.objects.filter(channel=str(channel)).order_by("gateway_seq")
    return [(row.status, row.charged_atomic, row.charged_through_atomic) for row in rows]


def row_of(payer: Payer) -> Channel:
    return Channel.objects.get(address=str(payer.channel))


def unsettled(party: Party) -> int:
    return balance(chart.unsettled(str(party.vendor), party.pubkey, MINT))


def spent(agent: SigningKey) -> int:
    return balance(chart.spent_unsettled(agent.pubkey, MINT))
