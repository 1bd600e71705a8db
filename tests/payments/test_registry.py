"""The gateway registry and the network a database belongs to."""

from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone
from solders.hash import Hash
from solders.pubkey import Pubkey

from apps.payments.errors import NetworkMismatch
from apps.payments.models import Gateway, Network
from apps.payments.services import gateways, network
from apps.payments.tasks import mark_stale_gateways
from tests.payments.conftest import registered
from tests.payments.factories import NETWORK, Party

pytestmark = pytest.mark.django_db
HEARTBEAT = gateways.Heartbeat("0.1.0", 60, {"requests_total": 5}, "http://127.0.0.1:1", 17)


def test_a_database_is_bound_once(db):
    assert network.bound_network() is None
    network.bind(NETWORK)
    network.bind(NETWORK)
    assert network.bound_network() == network.current_network() == NETWORK


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"domain": Hash.new_unique()}, "domain"),
        ({"mint": Pubkey.new_unique()}, "mint"),
        ({"program_id": Pubkey.new_unique()}, "program_id"),
    ],
)
def test_a_database_of_another_network_is_refused_with_the_difference(db, change, named):
    network.bind(NETWORK)
    with pytest.raises(NetworkMismatch, match=named):
        network.bind(replace(NETWORK, **change))
    assert network.bound_network() == NETWORK


def test_there_is_one_network_row(db):
    network.bind(NETWORK)
    with pytest.raises(IntegrityError), transaction.atomic():
        Network.objects.create(id=2, domain="a", program_id="b", mint="c")


def test_a_heartbeat_is_kept_and_marks_the_gateway_up(bound):
    party = registered()

    assert gateways.record_heartbeat(gateway=party.pubkey, heartbeat=HEARTBEAT)

    row = Gateway.objects.get()
    assert (row.status, row.version, row.uptime_seconds, row.log_seq) == ("UP", "0.1.0", 60, 17)
    assert (row.stats, row.url) == ({"requests_total": 5}, "http://127.0.0.1:1")


def test_a_heartbeat_of_a_gateway_that_is_not_on_chain_stores_nothing(bound):
    assert not gateways.record_heartbeat(gateway=Party().pubkey, heartbeat=HEARTBEAT)
    assert Gateway.objects.count() == 0


def test_silent_gateways_are_marked_down_and_come_back(bound):
    quiet, loud, new = registered(), registered(), registered()
    gateways.record_heartbeat(gateway=quiet.pubkey, heartbeat=HEARTBEAT)
    gateways.record_heartbeat(gateway=loud.pubkey, heartbeat=HEARTBEAT)
    Gateway.objects.filter(pubkey=quiet.pubkey).update(
        last_heartbeat_at=timezone.now() - gateways.STALE_AFTER - timedelta(seconds=1)
    )

    assert mark_stale_gateways() == 1
    assert mark_stale_gateways() == 0
    assert dict(Gateway.objects.values_list("pubkey", "status")) == {
        quiet.pubkey: "DOWN",
        loud.pubkey: "UP",
        new.pubkey: "UNKNOWN",
    }
    gateways.record_heartbeat(gateway=quiet.pubkey, heartbeat=HEARTBEAT)
    assert Gateway.objects.get(pubkey=quiet.pubkey).status == "UP"


def test_a_gateway_seen_again_keeps_its_vendor(bound):
    party = registered()
    gateways.remember([party.account(), Party(party.key, Pubkey.new_unique()).account()])
    assert Gateway.objects.get().vendor == str(party.vendor)
