"""The state file: merged, replaced whole, and harmless when it is missing, old or damaged."""

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machpay.client.channels import Totals
from machpay.client.errors import UnresolvedPaymentError
from machpay.client.store import StateFile
from machpay.client.terms import origin_of
from machpay.protocol.encoding import U64_MAX
from tests.gateway.factories import PRICE
from tests.sdk.model import AGENT, NETWORK, STRANGER

totals = st.builds(Totals, st.integers(0, U64_MAX), st.integers(0, U64_MAX), st.integers(0, U64_MAX))


def a_file(tmp_path) -> StateFile:
    return StateFile(tmp_path / "state", AGENT.pubkey, NETWORK)


def test_without_a_file_nothing_is_known(tmp_path):
    assert a_file(tmp_path).load() == {}


def test_what_was_saved_is_loaded(tmp_path):
    a_file(tmp_path).save({"a": Totals(3, 2, U64_MAX), "b": Totals()})
    assert a_file(tmp_path).load() == {"a": Totals(3, 2, U64_MAX), "b": Totals()}
    assert [path.suffix for path in (tmp_path / "state").iterdir()] == [".json"]


def test_two_processes_keep_the_larger_of_each_total(tmp_path):
    first, second = a_file(tmp_path), a_file(tmp_path)
    first.save({"a": Totals(10, 1, 5), "b": Totals(1, 1, 1)})
    second.save({"a": Totals(4, 9, 5), "c": Totals(2, 2, 2)})
    assert a_file(tmp_path).load() == {"a": Totals(10, 9, 5), "b": Totals(1, 1, 1), "c": Totals(2, 2, 2)}


@given(totals, totals, totals)
def test_merging_is_the_same_in_any_order(one, two, three):
    assert one.merge(two).merge(three) == three.merge(one).merge(two)
    assert one.merge(one) == one


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version":2,"agent":"x","channels":{}}',
        b'{"version":1,"agent":"x","channels":{}}',
        b'{"version":1,"channels":{}}',
        b"\xff\xfe",
    ],
)
def test_a_file_that_is_not_ours_is_ignored_and_replaced(tmp_path, content):
    file = a_file(tmp_path)
    file.path.parent.mkdir()
    file.path.write_bytes(content)
    assert file.load() == {}
    file.save({"a": Totals(1, 1, 1)})
    assert file.load() == {"a": Totals(1, 1, 1)}


@pytest.mark.parametrize("number", ["-1", "1.0", "", "x", "18446744073709551616", "١"])
def test_an_entry_that_is_no_total_is_ignored(tmp_path, number):
    file = a_file(tmp_path)
    file.save({"a": Totals(1, 1, 1), "b": Totals(2, 2, 2)})
    document = json.loads(file.path.read_text())
    document["channels"]["a"]["signed"] = number
    file.path.write_text(json.dumps(document))
    assert file.load() == {"b": Totals(2, 2, 2)}


def test_agents_have_files_of_their_own(tmp_path):
    a_file(tmp_path).save({"a": Totals(1, 1, 1)})
    assert StateFile(tmp_path / "state", STRANGER.pubkey, NETWORK).load() == {}


def test_a_reader_never_sees_half_a_file(tmp_path):
    file = a_file(tmp_path)
    file.save({str(number): Totals(number, 0, 0) for number in range(200)})
    stop = threading.Event()

    def write() -> None:
        writer = a_file(tmp_path)
        while not stop.is_set():
            writer.save({"0": Totals(1, 1, 1)})

    thread = threading.Thread(target=write)
    thread.start()
    try:
        sizes = {len(a_file(tmp_path).load()) for _ in range(200)}
    finally:
        stop.set()
        thread.join()
    assert sizes == {200}


def test_saving_is_due_at_first_and_not_right_after(tmp_path):
    file = a_file(tmp_path)
    assert file.is_due()
    file.save({})
    assert not file.is_due()


async def test_the_next_process_names_the_gateway_that_this_one_saw(make_client, relay, gateway, tmp_path):
    """Although nothing was paid: one of several processes knows the identifiers of this one's calls."""
    state = tmp_path / "state"
    named = f"machpay-gateway: {gateway.settings.key.pubkey}".lower().encode()
    first = await make_client(state_dir=state)
    relay.plan.extend(["pass", *["cut before"] * 20])
    with pytest.raises(UnresolvedPaymentError):
        await first.pay_and_call(relay.url + "/paid")
    assert named not in relay.seen[0].lower()
    relay.plan.clear()
    before = len(relay.seen)
    second = await make_client(state_dir=state)
    assert (await second.pay_and_call(relay.url + "/paid")).charged == PRICE
    assert named in relay.seen[before].lower()
    # A word to the gateway and no pin: a key that has changed since is not refused.
    saved = json.loads(next(state.glob("*.json")).read_text())
    assert saved["gateways"] == {origin_of(relay.url): gateway.settings.key.pubkey}
    saved["gateways"] = {origin_of(relay.url): STRANGER.pubkey}
    next(state.glob("*.json")).write_text(json.dumps(saved))
    third = await make_client(state_dir=state)
    assert (await third.pay_and_call(relay.url + "/paid")).charged == PRICE
