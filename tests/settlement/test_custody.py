"""Deposits into the custodial wallet, over the real chain: credited once, to whom they name."""

import io
import json

import pytest
from django.contrib.auth import get_user_model
from django.core.management import CommandError, call_command
from solders.instruction import AccountMeta
from solders.pubkey import Pubkey

from apps.ledger import chart
from apps.ledger.selectors import balance, trial_balance
from apps.payments.errors import AlreadyAttributed
from apps.payments.models import CustodialDeposit, CustodyCursor
from apps.payments.services.custody import attribute_deposit, deposit_reference
from machpay.chain import tokens
from machpay.chain.client import ChainClient
from tests.settlement.custody import Custody, open_custody
from tests.support.chain import LocalChain, chain_settings, module_chain

__all__ = ["chain_settings", "module_chain"]


@pytest.fixture
def custody(transactional_db, chain_settings: LocalChain, settings):
    made = open_custody(chain_settings, settings)
    yield made
    assert [book.total_atomic for book in trial_balance() if book.total_atomic] == []


def deposits() -> list[tuple[int, str, int | None]]:
    return list(CustodialDeposit.objects.order_by("id").values_list("amount_atomic", "status", "user_id"))


def test_a_deposit_is_credited_to_the_reference_it_names_once(custody: Custody) -> None:
    ann, bob = custody.user(), custody.user()
    assert deposit_reference(ann) == deposit_reference(ann) != deposit_reference(bob)
    signature = custody.send_in(700, deposit_reference(ann))
    custody.send_in(30, deposit_reference(bob))

    assert custody.sync() == 2
    assert custody.sync() == 0
    # A lost cursor reads everything again, and stores nothing twice.
    CustodyCursor.objects.all().delete()
    assert custody.sync() == 0
    assert deposits() == [(700, "CREDITED", ann), (30, "CREDITED", bob)]
    assert CustodialDeposit.objects.first().signature == signature  # type: ignore[union-attr]
    assert (custody.funds(ann), custody.funds(bob)) == ((700, 0), (30, 0))
    assert custody.compare().difference_atomic == 0


def test_a_transfer_that_is_listed_after_a_later_one_is_credited(custody: Custody, monkeypatch) -> None:
    ann = custody.user()
    late = custody.send_in(700, deposit_reference(ann))
    custody.send_in(30, deposit_reference(ann))
    listed = ChainClient.signatures_of

    async def without_it(*args, **kwargs):
        return [seen for seen in await listed(*args, **kwargs) if seen.signature != late]

    with monkeypatch.context() as patch:
        patch.setattr(ChainClient, "signatures_of", without_it)
        assert custody.sync() == 1
    assert custody.funds(ann) == (30, 0)

    assert custody.sync() == 1
    assert custody.sync() == 0
    assert custody.funds(ann) == (730, 0)
    assert custody.compare().difference_atomic == 0


def test_a_deposit_counts_only_when_it_is_final(custody: Custody) -> None:
    ann = custody.user()
    with custody.chain.control() as control:
        control.hold_finality()
        custody.send_in(700, deposit_reference(ann), final=False)
        assert custody.sync() == 0
        assert custody.funds(ann) == (0, 0)
        control.release_finality()
        custody.chain.wait_until_final()
        assert custody.sync() == 1
    assert custody.funds(ann) == (700, 0)


def test_transfers_of_one_transaction_are_deposits_of_their_own(custody: Custody) -> None:
    ann, bob = custody.user(), custody.user()
    mint, admin = custody.chain.network.mint, custody.chain.keys.get("admin").keypair()
    authority = custody.chain.keys.get("mint-authority")

    def mint_to(user: int, amount: int):
        step = tokens.mint_to(
            mint=mint, destination=custody.wallet, authority=authority.public, amount=amount
        )
        return type(step)(
            step.program_id,
            bytes(step.data),
            [*step.accounts, *_named(deposit_reference(user))],
        )

    steps = [mint_to(ann, 5), mint_to(bob, 6), mint_to(ann, 5)]
    custody.chain.call(lambda client: client.send_and_confirm(steps, admin, [authority.keypair()]))
    custody.chain.wait_until_final()
    custody.sync()
    assert deposits() == [(5, "CREDITED", ann), (6, "CREDITED", bob), (5, "CREDITED", ann)]
    assert sorted(CustodialDeposit.objects.values_list("instruction", flat=True)) == ["0.0", "1.0", "2.0"]
    assert custody.compare().difference_atomic == 0


def _named(reference: str):
    return [AccountMeta(Pubkey.from_string(reference), False, False)]


def test_what_names_nobody_or_two_waits_for_an_operator(custody: Custody, admin_user) -> None:
    ann, bob = custody.user(), custody.user()
    custody.send_in(50)
    custody.send_in(60, deposit_reference(ann), deposit_reference(bob))
    custody.sync()

    assert deposits() == [(50, "UNCLAIMED", None), (60, "UNCLAIMED", None)]
    assert balance(chart.unclaimed(custody.mint)) == 110
    assert custody.compare().difference_atomic == 0
    first = CustodialDeposit.objects.earliest("id")
    call_command(
        "attribute_deposit",
        first.pk,
        user=ann,
        by=admin_user.username,
        note="ticket 12",
        stdout=io.StringIO(),
    )
    first.refresh_from_db()
    assert (first.status, first.user_id, first.attributed_by_id, first.note) == (
        "ATTRIBUTED",
        ann,
        admin_user.pk,
        "ticket 12",
    )
    with pytest.raises(AlreadyAttributed):
        attribute_deposit(first.pk, user_id=bob, by_id=admin_user.pk, note="again", mint=custody.mint)
    assert (custody.funds(ann), custody.funds(bob)) == ((50, 0), (0, 0))
    assert balance(chart.unclaimed(custody.mint)) == 60


def test_only_staff_attributes(custody: Custody) -> None:
    user = get_user_model().objects.get(pk=custody.user())
    with pytest.raises(CommandError, match="not a staff member"):
        call_command("attribute_deposit", 1, user=user.pk, by=user.username, note="mine")


def test_the_command_shows_wallet_and_ledger(custody: Custody) -> None:
    user = custody.user(has=5_000)
    custody.request(user, custody.usable_wallet(user), 3_000)
    custody.send_in(10)
    out = io.StringIO()
    call_command("custody", json=True, init=True, stdout=out)
    assert json.loads(out.getvalue()) == {
        "ok": True,
        "wallet": str(custody.wallet),
        "wallet_atomic": 5_010,
        "spendable_atomic": 2_000,
        "payouts_under_way": 1,
        "payouts_under_way_atomic": 3_000,
        "unclaimed_deposits": 1,
        "unclaimed_atomic": 10,
    }
