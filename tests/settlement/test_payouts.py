"""Payouts over the real chain: paid once, whatever dies or is lost on the way."""

import importlib
import os
import signal
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, transaction

from apps.ledger import chart
from apps.ledger.selectors import hold_state, trial_balance
from apps.ledger.services import post
from apps.ledger.types import Leg, Transfer
from apps.settlement.chain import close_connections, connect
from apps.settlement.errors import SettlementPaused
from apps.settlement.services.outcome import Verdict
from apps.settlement.services.payouts import follow_payouts, pay_payouts
from apps.vendors.models import Payout, PayoutAttempt
from apps.vendors.services import execution
from machpay.chain.errors import RpcUnavailable
from tests.settlement.custody import Custody, open_custody
from tests.support.behind import Behind
from tests.support.chain import SLOT_MS, LocalChain, chain_settings, module_chain

__all__ = ["chain_settings", "module_chain"]


@pytest.fixture
def custody(transactional_db, chain_settings: LocalChain, settings):
    made = open_custody(chain_settings, settings)
    yield made
    assert [book.total_atomic for book in trial_balance() if book.total_atomic] == []
    assert made.compare().difference_atomic == 0


def attempts() -> list[tuple[str, int]]:
    return list(PayoutAttempt.objects.order_by("id").values_list("outcome", "number"))


def test_a_payout_creates_the_token_account_and_is_final(custody: Custody) -> None:
    user = custody.user(has=5_000)
    wallet = custody.usable_wallet(user)
    payout = custody.request(user, wallet, 3_000)
    assert custody.funds(user) == (5_000, 3_000)

    assert custody.pay() == [payout.pk]
    payout.refresh_from_db()
    assert payout.status == "SENT"
    custody.rest()
    payout.refresh_from_db()
    assert (payout.status, payout.tx_hash) == ("CONFIRMED", PayoutAttempt.objects.get().signature)
    assert custody.paid_to(wallet) == 3_000
    assert custody.funds(user) == (2_000, 0)
    assert hold_state(f"payout:{payout.pk}") == "POSTED"
    assert custody.pay() == []


def test_equal_payouts_are_each_paid(custody: Custody) -> None:
    user = custody.user(has=5_000)
    wallet = custody.usable_wallet(user)
    for number in range(3):
        custody.request(user, wallet, 1_000, f"payout_{number}")
    assert len(custody.pay()) == 3
    custody.rest()

    assert custody.paid_to(wallet) == 3_000
    assert custody.funds(user) == (2_000, 0)
    assert attempts() == [("LANDED", 1)] * 3


def test_while_under_way_the_wallet_reconciles(custody: Custody) -> None:
    user = custody.user(has=5_000)
    custody.request(user, custody.usable_wallet(user), 3_000)
    term = custody.compare()
    assert (term.wallet_atomic, term.spendable_atomic, term.held_atomic) == (5_000, 2_000, 3_000)
    custody.rest()
    term = custody.compare()
    assert (term.wallet_atomic, term.spendable_atomic, term.held_atomic) == (2_000, 2_000, 0)


# ---- a worker is killed; another goes on

PAY = "apps.settlement.services.payouts.pay"
FOLLOW = "apps.settlement.services.payouts.follow"
SEND = "apps.settlement.services.payouts.send"
CLIENT = "machpay.chain.client:ChainClient.send"
EXECUTION = "apps.vendors.services.execution"


def die(point: str) -> None:
    """A worker of its own follows and pays once, and is ended by SIGKILL at `point`: `<module>:<function>:before` when
    that is called, `:after` once it has returned. It is forked, because blockhashes are short on a test's chain and
    starting Python on a busy machine is not."""
    # The parent's connection stays open and its own: the worker makes another one, and never lets go of this.
    parents = [connection.connection]
    close_connections()
    pid = os.fork()
    if pid == 0:
        try:
            connection.connection = None
            _arrange_death(point)
            with connect() as session:
                follow_payouts(session)
                pay_payouts(session)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(len(parents))
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def _arrange_death(point: str) -> None:
    module_name, name, moment = point.split(":")
    owner: Any = importlib.import_module(module_name)
    *path, attribute = name.split(".")
    for step in path:
        owner = getattr(owner, step)
    original = getattr(owner, attribute)

    async def dies_sending(*args: Any) -> None:
        if moment == "after":
            await original(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    def dies(*args: Any, **kwargs: Any) -> None:
        if moment == "after":
            original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, attribute, dies_sending if point.startswith(CLIENT) else dies)


def test_killed_at_every_step_in_turn_pays_once(custody: Custody) -> None:
    user = custody.user(has=5_000)
    wallet = custody.usable_wallet(user)

    def sends() -> list[tuple[str, int]]:
        return list(PayoutAttempt.objects.values_list("outcome", "send_count"))

    payout = custody.request(user, wallet, 3_000)
    # Signed, and the transaction that stores it is rolled back: nothing has left the process.
    die(f"{PAY}:sign_transaction:after")
    assert sends() == []
    die(f"{PAY}:claim_payouts:after")
    assert sends() == [("OPEN", 0)]
    die(f"{SEND}:begin_send:after")
    assert sends() == [("OPEN", 1)]
    die(f"{CLIENT}:after")
    assert sends() == [("OPEN", 2)]

    custody.chain.wait_until_final()
    die(f"{FOLLOW}:mark_paid:before")
    # The ledger has moved, and dies with its transaction.
    die(f"{EXECUTION}:post:after")
    assert sends() == [("OPEN", 2)]
    assert custody.funds(user) == (5_000, 3_000)
    die(f"{FOLLOW}:mark_paid:after")
    assert sends() == [("LANDED", 2)]

    custody.rest()
    payout.refresh_from_db()
    assert payout.status == "CONFIRMED"
    assert custody.paid_to(wallet) == 3_000
    assert custody.funds(user) == (2_000, 0)
    assert attempts() == [("LANDED", 1)]


def test_killed_as_soon_as_the_first_bytes_have_left_pays_once(custody: Custody) -> None:
    user = custody.user(has=5_000)
    wallet = custody.usable_wallet(user)
    custody.request(user, wallet, 3_000)
    die(f"{CLIENT}:after")
    assert list(PayoutAttempt.objects.values_list("outcome", "send_count")) == [("OPEN", 1)]

    custody.rest()
    assert custody.paid_to(wallet) == 3_000
    assert custody.funds(user) == (2_000, 0)
    assert attempts() == [("LANDED", 1)]


# ---- the chain loses, delays, hides


def test_a_dropped_transaction_is_sent_again_as_it_was(custody: Custody) -> None:
    user = custody.user(has=5_000)
    wallet = custody.usable_wallet(user)
    custody.request(user, wallet, 3_000)
    with custody.chain.control() as control:
        control.drop_sends(1)
        custody.pay()
        custody.rest()

    assert custody.paid_to(wallet) == 3_000
    assert attempts() == [("LANDED", 1)]
    assert PayoutAttempt.objects.get().send_count > 1


def test_another_transaction_is_signed_only_when_the_first_can_never_land(custody: Custody) -> None:
    user = custody.user(has=5_000)
    wallet = custody.usable_wallet(user)
    custody.request(user, wallet, 3_000)
    with custody.chain.control() as control:
        control.drop_sends(1)
        custody.pay()
        # Its blockhash is too old by now; that this is final is not known yet.
        control.hold_finality()
        control.expire_blockhashes()
        custody.follow()
        assert attempts() == [("OPEN", 1)]
        assert custody.pay() == []
        control.release_finality()
        deadline = time.monotonic() + 120
        while attempts() == [("OPEN", 1)]:
            assert time.monotonic() < deadline
            custody.follow()
            time.sleep(SLOT_MS / 1000)
    assert attempts() == [("EXPIRED", 1)]
    assert Payout.objects.get().status == "PENDING"
    assert custody.funds(user) == (5_000, 3_000)

    Payout.objects.update(not_before=None)
    custody.rest()
    assert custody.paid_to(wallet) == 3_000
    assert attempts() == [("EXPIRED", 1), ("LANDED", 2)]


def test_a_payout_that_landed_unseen_is_found_and_not_repeated(custody: Custody) -> None:
    user = custody.user(has=5_000)
    wallet = custody.usable_wallet(user)
    custody.request(user, wallet, 3_000)
    with custody.chain.control() as control:
        control.lose_confirmation(20)
        custody.pay()
        custody.follow()
        assert attempts() == [("OPEN", 1)]
        custody.rest()
    assert custody.paid_to(wallet) == 3_000
    assert attempts() == [("LANDED", 1)]


def test_a_server_that_is_behind_does_not_say_that_a_payout_never_landed(custody: Custody, settings) -> None:
    user = custody.user(has=5_000)
    wallet = custody.usable_wallet(user)
    custody.request(user, wallet, 3_000)
    slot = custody.chain.call(lambda client: client.slot("processed"))
    custody.pay()
    with Behind(settings.SOLANA_RPC_URL, slot=slot) as balancer, custody.chain.control() as control:
        control.expire_blockhashes()
        custody.chain.wait_until_final()
        settings.SOLANA_RPC_URL, direct = balancer.url, settings.SOLANA_RPC_URL
        with pytest.raises(RpcUnavailable, match=f"is at slot {slot}, before"):
            custody.follow()
        settings.SOLANA_RPC_URL = direct
    assert attempts() == [("OPEN", 1)]
    custody.rest()
    assert custody.paid_to(wallet) == 3_000
    assert attempts() == [("LANDED", 1)]


def test_no_answer_to_a_send_decides_nothing(custody: Custody) -> None:
    user = custody.user(has=5_000)
    wallet = custody.usable_wallet(user)
    custody.request(user, wallet, 3_000)
    with custody.chain.control() as control:
        control.interrupt_calls("sendTransaction")
        with pytest.raises(RpcUnavailable):
            custody.pay()
        assert attempts() == [("OPEN", 1)]
        custody.rest()
    assert custody.paid_to(wallet) == 3_000
    assert attempts() == [("LANDED", 1)]


def test_a_wallet_that_lacks_the_money_refuses_and_the_balance_comes_back(
    custody: Custody, monkeypatch
) -> None:
    """The ledger was wrong about the wallet, which only a bug or a theft makes: nothing is paid, the user keeps it."""
    monkeypatch.setattr(execution, "ATTEMPTS_MAX", 1)
    user = custody.user()
    wrong = Transfer.move(
        "wrong",
        "custody_deposit",
        debit=chart.custody_deposits(custody.mint),
        credit=chart.custodial(user, custody.mint),
        amount_atomic=900,
    )
    with transaction.atomic():
        post([wrong])
    wallet = custody.usable_wallet(user)
    payout = custody.request(user, wallet, 900)
    assert custody.pay() == [payout.pk]
    assert attempts() == [("OPEN", 1)]
    with custody.chain.control() as control:
        control.expire_blockhashes()
        custody.chain.wait_until_final()
        deadline = time.monotonic() + 120
        while attempts() == [("OPEN", 1)]:
            assert time.monotonic() < deadline
            custody.follow()
            time.sleep(SLOT_MS / 1000)
    payout.refresh_from_db()
    assert (payout.status, payout.tx_hash) == ("FAILED", "")
    assert "insufficient" in payout.error.lower() or "0x1" in payout.error
    assert custody.funds(user) == (900, 0)
    assert custody.paid_to(wallet) == 0
    assert custody.compare().difference_atomic == -900
    with transaction.atomic():
        back = tuple(Leg(leg.account, -leg.amount_atomic) for leg in wrong.legs)
        post([Transfer("right", "custody_deposit", back)])


def test_without_the_key_nothing_is_claimed(custody: Custody, settings) -> None:
    user = custody.user(has=10)
    custody.request(user, custody.usable_wallet(user), 10)
    key, settings.CUSTODY_KEYPAIR = settings.CUSTODY_KEYPAIR, ""
    with connect() as session, pytest.raises(SettlementPaused):
        pay_payouts(session)
    assert Payout.objects.get().status == "PENDING"
    settings.CUSTODY_KEYPAIR = key


def test_several_workers_pay_each_payout_once(custody: Custody) -> None:
    user = custody.user(has=6_000)
    wallet = custody.usable_wallet(user)
    for number in range(6):
        custody.request(user, wallet, 1_000, f"payout_{number}")

    def work(_number: int) -> list[int]:
        try:
            return custody.pay()
        finally:
            connection.close()

    with ThreadPoolExecutor(3) as pool:
        claimed = [payout for part in pool.map(work, range(3)) for payout in part]
    assert sorted(claimed) == sorted(Payout.objects.values_list("pk", flat=True))
    custody.rest()
    assert custody.paid_to(wallet) == 6_000
    assert Verdict.FINAL not in custody.follow()
