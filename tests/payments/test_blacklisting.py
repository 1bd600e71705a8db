"""A gateway that is proven to cheat gets nothing more of any bond, whatever happens at the same moment."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from django.db import connection, transaction

from apps.payments.models import AgentMirror, Case, ChainConfig, Gateway, Lease
from apps.payments.services import cases, gateways, leases, misbehaviour, network
from apps.payments.services.leases import Granted, Refused, Wish
from machpay.protocol.keys import SigningKey
from tests.payments.conftest import registered
from tests.payments.factories import NETWORK, Party, Payer

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def payer(transactional_db) -> Payer:
    network.bind(NETWORK)
    ChainConfig.objects.create(min_bond_atomic=1_000, timelock_s=86_400, claim_delay_s=43_200, slot=1)
    agent = SigningKey.generate()
    AgentMirror.objects.create(agent=agent.pubkey, bond_atomic=10_000)
    return Payer(agent, registered())


def ask(payer: Payer) -> Granted | Refused:
    return leases.grant(
        Wish(
            agent=payer.agent.pubkey,
            channel=str(payer.channel),
            gateway=payer.gateway.pubkey,
            vendor=str(payer.gateway.vendor),
            amount=1_000,
            intent_amount=100,
            last_seq=0,
        )
    )


def suspected(gateway: Party) -> Case:
    with transaction.atomic():
        case, _ = cases.open_case(
            kind=Case.Kind.SELECTIVE_DENIAL, subject=gateway.pubkey, key="test", evidence={}
        )
    return case


def test_a_gateway_whose_vendor_revoked_its_key_gets_no_lease(payer: Payer) -> None:
    assert isinstance(ask(payer), Granted)

    gateways.remember([replace(payer.gateway.account(), revoked=True, revoked_at=1)])

    assert ask(payer) == Refused("gateway_revoked")
    assert Lease.objects.count() == 1


def test_a_lease_that_is_being_granted_meanwhile_is_revoked(payer: Payer) -> None:
    case = suspected(payer.gateway)
    granted, finish = threading.Event(), threading.Event()

    def grant() -> None:
        with transaction.atomic():
            assert isinstance(ask(payer), Granted)
            granted.set()
            assert finish.wait(60)

    def blacklist() -> None:
        assert granted.wait(60)
        cases.uphold(case.id, by="ada", note="proven", blacklist=True)

    def closing(work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        granting, blacklisting = pool.submit(closing, grant), pool.submit(closing, blacklist)
        try:
            # Until it has gone through, or waits for the grant.
            while not blacklisting.done() and not _somebody_waits_for_a_lock():
                pass
        finally:
            finish.set()
        granting.result(60)
        blacklisting.result(60)

    assert Lease.objects.get().revoked_reason == "blacklisted"
    assert ask(payer) == Refused("gateway_blacklisted")


def _somebody_waits_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock')"
        )
        return bool(cursor.fetchone()[0])


def test_a_report_that_was_cut_short_is_made_by_the_next_delivery(payer: Payer, monkeypatch) -> None:
    gateway = payer.gateway.pubkey

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(misbehaviour, "uphold", die)
        with pytest.raises(KeyboardInterrupt):
            misbehaviour.report(gateway, [{"charged": "1"}])
    assert Gateway.objects.get().blacklisted_at is None

    misbehaviour.report(gateway, [{"charged": "1"}])

    row = Gateway.objects.get()
    assert (row.blacklisted_at is not None, row.penalty_points) == (True, 100)
    assert Case.objects.get().status == "UPHELD"
