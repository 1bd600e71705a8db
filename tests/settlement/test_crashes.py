"""A worker dies between any two lines of settling: nothing is lost, nothing is paid twice.

`Killed` ends the code under test like SIGKILL would: no handler of ours catches it, and whatever was
committed stays.
"""

from collections.abc import Callable
from typing import Any

import pytest

from apps.payments.models import Settlement
from apps.settlement.services import follow as follow_module
from apps.settlement.services import send as send_module
from apps.settlement.services import settle as settle_module
from devnet.offers import LEXICON
from machpay.chain.client import ChainClient
from machpay.chain.errors import RpcUnavailable
from tests.settlement.conftest import Recon
from tests.support.chain import Payer


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture
def payer(recon: Recon) -> Payer:
    """An agent that owes Lexicon 1,000."""
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(600), payer.pay(400))
    return payer


@pytest.fixture
def die(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`die(module, name)` kills whoever calls that function, before it does anything; with `after=True`
    once it has returned."""

    def arrange(owner: Any, name: str, *, after: bool = False) -> None:
        original = getattr(owner, name)

        def dies(*args: Any, **kwargs: Any) -> None:
            if after:
                original(*args, **kwargs)
            raise Killed

        monkeypatch.setattr(owner, name, dies)

    return arrange


def settle_and_die(recon: Recon, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Killed):
        recon.settle()
    monkeypatch.undo()


def ends_well(recon: Recon, payer: Payer, before: int) -> None:
    """Everything charged is paid once, and the books say so."""
    recon.rest()
    assert recon.chain.vendor_balance(LEXICON) - before == 1_000
    assert recon.statuses(payer) == ["SETTLED", "SETTLED"]
    assert recon.liability(payer.agent) == 0
    assert recon.channel(payer).settled_atomic == 1_000
    assert recon.settle() == []


def test_killed_before_the_commit_leaves_the_channel_due(recon, payer, die, monkeypatch) -> None:
    before = recon.chain.vendor_balance(LEXICON)
    die(settle_module, "store_settlements", after=True)
    settle_and_die(recon, monkeypatch)
    assert recon.states() == []
    assert recon.channel(payer).in_flight_id is None

    assert len(recon.settle()) == 1
    ends_well(recon, payer, before)


def test_killed_between_storing_and_sending_is_sent_by_follow(recon, payer, die, monkeypatch) -> None:
    before = recon.chain.vendor_balance(LEXICON)
    die(settle_module, "send_all")
    settle_and_die(recon, monkeypatch)
    assert recon.states() == ["PENDING"]
    assert recon.settle() == []

    recon.follow()
    assert recon.states() == ["SENT"]
    ends_well(recon, payer, before)


def test_killed_before_the_bytes_leave_is_sent_by_follow(recon, payer, die, monkeypatch) -> None:
    before = recon.chain.vendor_balance(LEXICON)
    die(send_module, "begin_sends", after=True)
    settle_and_die(recon, monkeypatch)
    assert list(Settlement.objects.values_list("state", "send_count")) == [("SENT", 1)]

    recon.follow()
    assert list(Settlement.objects.values_list("state", "send_count")) == [("SENT", 2)]
    ends_well(recon, payer, before)


def test_killed_after_the_bytes_left_is_found_on_the_chain(recon, payer, monkeypatch) -> None:
    before = recon.chain.vendor_balance(LEXICON)
    send = ChainClient.send

    async def send_and_die(self: ChainClient, raw: bytes) -> str:
        await send(self, raw)
        raise Killed

    monkeypatch.setattr(ChainClient, "send", send_and_die)
    settle_and_die(recon, monkeypatch)
    assert recon.states() == ["SENT"]

    recon.chain.wait_until_final()
    recon.follow()
    assert list(Settlement.objects.values_list("state", "send_count")) == [("FINALIZED", 1)]
    ends_well(recon, payer, before)


def test_killed_before_the_end_is_recorded_is_looked_up_again(recon, payer, die, monkeypatch) -> None:
    before = recon.chain.vendor_balance(LEXICON)
    recon.settle()
    recon.chain.wait_until_final()
    die(follow_module, "mark_finalized")
    with pytest.raises(Killed):
        recon.follow()
    monkeypatch.undo()

    # The ledger does not wait for the transaction's own row: it follows the watermark.
    recon.sync()
    assert recon.liability(payer.agent) == 0
    assert recon.states() == ["SENT"]
    assert recon.settle() == []
    ends_well(recon, payer, before)


def test_killed_between_following_and_mirroring_plans_nothing_meanwhile(recon, payer) -> None:
    before = recon.chain.vendor_balance(LEXICON)
    recon.settle()
    recon.chain.wait_until_final()
    recon.follow()
    assert recon.states() == ["FINALIZED"]
    assert recon.channel(payer).in_flight_id is not None

    ends_well(recon, payer, before)


def test_no_answer_to_a_send_that_arrived_is_unknown_until_looked_up(recon, payer, monkeypatch) -> None:
    before = recon.chain.vendor_balance(LEXICON)
    send = ChainClient.send

    async def send_without_answer(self: ChainClient, raw: bytes) -> str:
        await send(self, raw)
        raise RpcUnavailable("the connection broke while the answer was awaited")

    monkeypatch.setattr(ChainClient, "send", send_without_answer)
    with pytest.raises(RpcUnavailable):
        recon.settle()
    monkeypatch.undo()
    assert recon.states() == ["UNKNOWN"]
    assert recon.settle() == []

    recon.chain.wait_until_final()
    recon.follow()
    assert list(Settlement.objects.values_list("state", "send_count")) == [("FINALIZED", 1)]
    ends_well(recon, payer, before)


def test_no_answer_to_a_send_that_never_arrived_is_sent_again(recon, payer, monkeypatch) -> None:
    before = recon.chain.vendor_balance(LEXICON)

    async def send_nothing(self: ChainClient, raw: bytes) -> str:
        raise RpcUnavailable("connection refused")

    monkeypatch.setattr(ChainClient, "send", send_nothing)
    with pytest.raises(RpcUnavailable):
        recon.settle()
    monkeypatch.undo()
    (stored,) = Settlement.objects.all()
    assert (stored.state, stored.error) == ("UNKNOWN", "connection refused")

    recon.follow()
    (sent,) = Settlement.objects.all()
    assert (sent.state, sent.send_count) == ("SENT", 2)
    assert bytes(sent.raw_transaction) == bytes(stored.raw_transaction)
    ends_well(recon, payer, before)


def test_every_step_run_twice_changes_nothing_the_second_time(recon, payer) -> None:
    before = recon.chain.vendor_balance(LEXICON)
    for _ in range(2):
        recon.settle()
    recon.chain.wait_until_final()
    for step in (recon.follow, recon.follow, recon.sync, recon.sync):
        step()
    assert len(recon.states()) == 1
    ends_well(recon, payer, before)
