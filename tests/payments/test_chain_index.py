"""The index stores what the program recorded, whatever strangers wrote into it."""

import pytest
from solders.keypair import Keypair

from apps.payments.models import ChainEvent
from apps.payments.services.chain_index import ReadTransaction, store
from machpay.chain.client import SignatureSeen
from machpay.chain.events import VendorRegistered
from machpay.chain.traces import Invocation, Recorded

pytestmark = pytest.mark.django_db


def test_a_vendors_text_with_a_zero_character_is_stored_and_stops_nothing() -> None:
    """UTF-8 has it and the program takes it; PostgreSQL's JSON does not."""
    key = Keypair().pubkey()
    event = VendorRegistered(key, key, key, 5, "https://v.example/\0é")
    recorded = Recorded(event, 0, Invocation(key, (), b"", 1))
    seen = SignatureSeen(str(Keypair().sign_message(b"registered")), 7, None, failed=False)
    assert store([ReadTransaction(seen, [recorded])]) == 1
    assert store([ReadTransaction(seen, [recorded])]) == 0
    assert ChainEvent.objects.get().data["metadata_uri"] == "https://v.example/\ufffdé"
