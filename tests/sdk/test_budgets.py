"""The agent's own rules, as a pure decision and over a real gateway: a refusal signs nothing and moves nothing."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machpay import Budgets
from machpay.client.errors import (
    ApprovalDeniedError,
    BudgetExceededError,
    ConfigError,
    InsufficientBondError,
    NotAllowedError,
    SpendingUnknownError,
)
from machpay.client.spending import Spending
from machpay.protocol.keys import SigningKey
from machpay.protocol.x402 import Correction, correction_json
from tests.gateway.conftest import eventually
from tests.gateway.factories import PRICE
from tests.gateway.network_standin import Account
from tests.sdk.model import AGENT, STRANGER
from tests.sdk.scripted import Scripted

V = SigningKey(b"v" * 32).pubkey
W = SigningKey(b"w" * 32).pubkey
NOON = 1_795_262_400.0
DAY = 86_400.0

amounts = st.integers(0, 1_000)
limits = st.none() | amounts


# ---- the decision


@given(limits, limits, limits, st.dictionaries(st.sampled_from([V, W]), amounts), amounts, amounts, amounts)
def test_a_grant_fits_every_budget_and_covers_the_least(call, day, vendor, spent, least, extra, in_call):
    budgets = Budgets(per_call_atomic=call, per_day_atomic=day, per_vendor_atomic=vendor)
    rooms = [
        limit - used
        for limit, used in (
            (call, in_call),
            (day, sum(spent.values())),
            (vendor, spent.get(V, 0)),
        )
        if limit is not None
    ]
    fits = least == 0 or all(least <= room for room in rooms)
    if fits:
        granted = budgets.grant(spent, V, least=least, wanted=least + extra, spent_in_call=in_call)
        assert granted == max(0, min([least + extra, *rooms]))
        return
    with pytest.raises(BudgetExceededError) as raised:
        budgets.grant(spent, V, least=least, wanted=least + extra, spent_in_call=in_call)
    assert raised.value.needed_atomic == least > raised.value.limit_atomic - raised.value.spent_atomic


def test_a_budget_of_ones_own_replaces_the_one_of_every_vendor():
    budgets = Budgets(per_vendor_atomic=10, vendors_atomic={V: 30})
    assert budgets.grant({V: 20}, V, least=10, wanted=10, spent_in_call=0) == 10
    with pytest.raises(BudgetExceededError) as raised:
        budgets.grant({W: 1}, W, least=10, wanted=10, spent_in_call=0)
    assert (raised.value.budget, raised.value.limit_atomic, raised.value.spent_atomic) == ("vendor", 10, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"per_day_atomic": -1},
        {"vendors_atomic": {V: -1}},
        {"allowed_vendors": V},
        {"allowed_origins": "http://x"},
    ],
)
def test_budgets_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError):
        Budgets(**settings)


# ---- the day


def take(spending: Spending, amount: int, now: float = NOON, vendor: str = V) -> int:
    return spending.take(vendor, least=amount, wanted=amount, spent_in_call=0, now=now)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "state" / "spent.json"


def test_a_restart_does_not_start_the_day_anew_and_midnight_does(path):
    budgets = Budgets(per_day_atomic=10)
    assert take(Spending(budgets, AGENT.pubkey, path), 7) == 7
    again = Spending(budgets, AGENT.pubkey, path)
    with pytest.raises(BudgetExceededError) as raised:
        take(again, 4)
    assert (raised.value.budget, raised.value.spent_atomic) == ("day", 7)
    assert Spending(budgets, AGENT.pubkey, path).today(NOON) == {V: 7}
    assert take(again, 10, NOON + DAY) == 10
    # A clock that steps back finds the later day, and what was spent in it.
    with pytest.raises(BudgetExceededError):
        take(again, 1, NOON)


def test_what_is_given_back_can_be_spent_on_the_same_day_only(path):
    spending = Spending(Budgets(per_day_atomic=10), AGENT.pubkey, path)
    take(spending, 10)
    spending.give_back(V, 4, taken_at=NOON, now=NOON + 1)
    assert spending.today(NOON) == {V: 6}
    take(spending, 10, NOON + DAY)
    spending.give_back(V, 6, taken_at=NOON, now=NOON + DAY)
    assert spending.today(NOON + DAY) == {V: 10}


@pytest.mark.parametrize("content", ["", "{", '{"agent":"x","day":"2026-11-21","vendors":{}}'])
def test_a_damaged_record_stops_payments_and_is_kept(path, content):
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(SpendingUnknownError, match=r"spent\.json"):
        take(Spending(Budgets(per_day_atomic=10), AGENT.pubkey, path), 1)
    assert path.read_text() == content


def test_without_a_budget_of_days_no_record_is_kept(path):
    assert take(Spending(Budgets(per_call_atomic=5), AGENT.pubkey, path), 5) == 5
    assert not path.parent.exists()


def _spend_ones(path: Path, limit: int) -> int:
    spending = Spending(Budgets(per_day_atomic=limit), AGENT.pubkey, path)
    taken = 0
    try:
        while True:
            taken += take(spending, 1)
    except BudgetExceededError:
        return taken


def test_processes_that_share_a_folder_share_one_budget(path):
    """Threads with files of their own: the lock belongs to the open file, as it does between processes."""
    with ThreadPoolExecutor(3) as pool:
        taken = list(pool.map(_spend_ones, [path] * 3, [300] * 3))
    assert sum(taken) == 300
    assert json.loads(path.read_text())["vendors"] == {V: "300"}


# ---- over a gateway


async def test_a_day_is_spent_to_the_last_unit_and_not_beyond(make_client, gateway, net, upstream, tmp_path):
    settings = {"budgets": Budgets(per_day_atomic=3 * PRICE), "state_dir": tmp_path / "state"}
    client = await make_client(**settings)
    for _ in range(3):
        assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE
    for one in (client, await make_client(**settings)):
        with pytest.raises(BudgetExceededError) as raised:
            await one.pay_and_call(gateway.url + "/paid")
        assert (raised.value.budget, raised.value.spent_atomic) == ("day", 3 * PRICE)
        assert raised.value.needed_atomic == PRICE
    assert len(upstream.seen) == 3
    await eventually(lambda: net.charged == 3 * PRICE, "the relayer knows every charge")


async def test_in_flight_calls_together_keep_within_the_budget(make_client, gateway, upstream):
    client = await make_client(budgets=Budgets(per_day_atomic=5 * PRICE))
    calls = (client.pay_and_call(gateway.url + "/paid") for _ in range(12))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BudgetExceededError)]
    assert (len(refused), len(upstream.seen)) == (7, 5)
    assert client._book.channel(gateway.settings.key.public).signed == 5 * PRICE


async def test_what_was_not_served_leaves_its_budget_to_the_next_call(make_client, gateway):
    client = await make_client(budgets=Budgets(per_day_atomic=PRICE, per_call_atomic=PRICE))
    for _ in range(3):
        assert (await client.pay_and_call(gateway.url + "/paid?mode=status-500")).charged == 0
    assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE
    with pytest.raises(BudgetExceededError):
        await client.pay_and_call(gateway.url + "/paid")


async def test_a_vendors_budget_and_a_calls_budget_are_told_apart(make_client, gateway, upstream):
    vendor = str(gateway.settings.vendor)
    client = await make_client(budgets=Budgets(vendors_atomic={vendor: PRICE - 1}))
    with pytest.raises(BudgetExceededError) as raised:
        await client.pay_and_call(gateway.url + "/paid")
    assert (raised.value.budget, raised.value.vendor) == ("vendor", vendor)
    client = await make_client(budgets=Budgets(per_call_atomic=PRICE - 1))
    with pytest.raises(BudgetExceededError) as raised:
        await client.pay_and_call(gateway.url + "/paid")
    assert raised.value.budget == "call"
    assert upstream.seen == []
    assert client._book.channel(gateway.settings.key.public).signed == 0


async def test_another_process_on_the_key_costs_this_ones_budget_nothing(make_client, gateway):
    """The first signature of a process without state is too low. Corrected, it has authorised nothing new."""
    other = await make_client()
    for _ in range(3):
        await other.pay_and_call(gateway.url + "/paid")
    client = await make_client(budgets=Budgets(per_call_atomic=PRICE, per_day_atomic=2 * PRICE))
    first = await client.pay_and_call(gateway.url + "/paid")
    assert (first.payment.attempts, first.charged) == (2, PRICE)
    assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE
    with pytest.raises(BudgetExceededError):
        await client.pay_and_call(gateway.url + "/paid")
    assert sum(client._spending.today(time.time()).values()) == 2 * PRICE


async def test_a_lying_gateway_gets_no_more_than_a_calls_budget(make_client):
    """It refuses everything and claims each time that all it was signed is committed."""
    scripted = Scripted(refuse=lambda arrived: "cumulative_too_low")
    await scripted.start()

    def claim(arrived):
        voucher = arrived.intent.voucher(arrived.signature)
        return correction_json(Correction(arrived.intent.cumulative, voucher))

    scripted.correct = claim
    try:
        client = await make_client(network=scripted.network, budgets=Budgets(per_call_atomic=3 * 1_000))
        with pytest.raises(BudgetExceededError) as raised:
            await client.pay_and_call(scripted.url + "/x")
        assert raised.value.budget == "call"
        assert scripted.signed == 3_000
    finally:
        await scripted.stop()


async def test_an_origin_off_the_list_is_not_even_called(make_client, gateway, relay):
    client = await make_client(budgets=Budgets(allowed_origins=[gateway.url]))
    with pytest.raises(NotAllowedError, match="origin"):
        await client.pay_and_call(relay.url + "/paid")
    assert relay.seen == []
    assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE


async def test_a_vendor_off_the_list_is_not_paid(make_client, gateway, upstream):
    client = await make_client(budgets=Budgets(allowed_vendors=[STRANGER.pubkey]))
    with pytest.raises(NotAllowedError, match="vendor"):
        await client.pay_and_call(gateway.url + "/paid")
    assert upstream.seen == []
    client = await make_client(budgets=Budgets(allowed_vendors=[str(gateway.settings.vendor)]))
    assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE


@pytest.mark.parametrize("answer", [False, None])
async def test_a_call_that_is_not_approved_signs_nothing(make_client, gateway, upstream, answer):
    asked = []

    async def approve(proposal):
        asked.append(proposal)
        return answer

    client = await make_client(budgets=Budgets(approve=approve))
    with pytest.raises(ApprovalDeniedError) as raised:
        await client.pay_and_call(gateway.url + "/paid?x=1", "POST")
    assert raised.value.price_atomic == PRICE
    (proposal,) = asked
    assert (proposal.url, proposal.method) == (gateway.url + "/paid?x=1", "POST")
    assert (proposal.price_atomic, proposal.vendor) == (PRICE, str(gateway.settings.vendor))
    assert upstream.seen == []
    assert client._book.channel(gateway.settings.key.public).signed == 0


async def test_only_dear_calls_are_asked_about_and_each_once(make_client, gateway):
    asked = []

    def approve(proposal):
        asked.append(proposal.price_atomic)
        return True

    other = await make_client()
    await other.pay_and_call(gateway.url + "/paid")
    client = await make_client(budgets=Budgets(approve=approve, approve_from_atomic=PRICE))
    assert (await client.pay_and_call(gateway.url + "/paid")).payment.attempts == 2
    assert asked == [PRICE]
    client = await make_client(budgets=Budgets(approve=approve, approve_from_atomic=PRICE + 1))
    assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE
    assert asked == [PRICE]


# ---- the bond


async def test_a_low_balance_is_told_once_until_it_has_recovered(make_client, key, net):
    told = []
    net.accounts[key.pubkey] = account = Account(bond=500, external=100)
    await make_client(
        relayer_url=net.url, low_balance_atomic=401, on_low_balance=told.append, balance_check_s=0.01
    )
    await eventually(lambda: len(net.look_ups) > 3, "it looked several times")
    (low,) = told
    assert (low.agent, low.available_atomic, low.threshold_atomic) == (key.pubkey, 400, 401)
    account.bond = 501
    seen = len(net.look_ups)
    await eventually(lambda: len(net.look_ups) > seen + 2, "it saw the recovery")
    assert len(told) == 1
    account.bond = 0
    await eventually(lambda: len(told) == 2, "it fell again")
    assert told[1].available_atomic == 0


async def test_the_balance_is_looked_up_when_a_gateway_says_it_is_short(make_client, gateway, key, net):
    told = []
    net.accounts[key.pubkey] = account = Account(bond=PRICE * 100)
    client = await make_client(
        relayer_url=net.url, low_balance_atomic=PRICE, on_low_balance=told.append, balance_check_s=600
    )
    await eventually(lambda: len(net.look_ups) == 1, "the first look")
    account.bond = PRICE - 1
    with pytest.raises(InsufficientBondError):
        await client.pay_and_call(gateway.url + "/paid")
    await eventually(lambda: len(told) == 1, "it was told")
    assert told[0].available_atomic == PRICE - 1


async def test_trouble_with_the_balance_stops_no_payment(make_client, gateway):
    def fail(_low):
        raise RuntimeError("the callback is broken")

    for url in ("http://127.0.0.1:9", None):
        client = await make_client(
            relayer_url=url, rpc_url="http://127.0.0.1:9", on_low_balance=fail, balance_check_s=0.01
        )
        assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE


async def test_a_low_balance_callback_needs_somebody_who_knows(make_client):
    with pytest.raises(ConfigError, match="on_low_balance"):
        await make_client(on_low_balance=print)
