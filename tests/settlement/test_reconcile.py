"""Reconciliation says what vault, accounts and ledger hold at one finalised slot, and whose part differs."""

import json
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from structlog.testing import capture_logs

from apps.core.live import channel as live_channel
from apps.core.redis import sync_redis
from apps.ledger import chart
from apps.ledger.services import post
from apps.ledger.types import Transfer
from apps.payments import models
from apps.settlement.services.reconcile import reconcile
from apps.settlement.tasks import reconcile_with_chain
from devnet.offers import LEXICON
from devnet.services.ports import free_port
from machpay.chain import tokens
from tests.settlement.conftest import BOND, Recon


def post_by_hand(*transfers: Transfer) -> None:
    with transaction.atomic():
        post(transfers)


def as_json() -> tuple[dict[str, Any], int]:
    """What `manage.py reconcile --json` prints, and its exit code."""
    out = StringIO()
    code = 0
    try:
        call_command("reconcile", "--json", stdout=out)
    except SystemExit as ended:
        code = int(ended.code or 0)
    return json.loads(out.getvalue()), code


def test_equal_books_are_found_equal_term_by_term(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(4_000))
    recon.settle()
    recon.rest()
    recon.chain.top_up(payer.agent, 1_000_000)
    recon.chain.wait_until_final()

    found, code = as_json()

    assert code == 0
    assert (found["ok"], found["differences"], found["trial_balance_atomic"]) == (True, [], 0)
    terms = {term["name"]: (term["chain_atomic"], term["ledger_atomic"]) for term in found["terms"]}
    on_chain = {"bond", "forfeited", "withdrawn", "swept", "owed", "settled", "deposits"}
    assert set(terms) == on_chain | {"spent_unsettled", "unsettled", "uncollected"}
    assert all(chain == ledger for chain, ledger in terms.values())
    # The deposit was final and in no snapshot yet: reconciling took it over first.
    assert recon.bond(payer.agent) == BOND - 4_000 + 1_000_000
    assert (
        terms["bond"][0] + terms["owed"][0] + terms["forfeited"][0] + found["surplus_atomic"]
        == (found["vault_atomic"])
    )


def test_a_gift_to_the_vault_is_surplus_and_no_difference(recon: Recon) -> None:
    recon.catch_up()
    before = recon.run(reconcile)
    network, authority = recon.chain.network, recon.chain.keys.get("mint-authority")
    gift = tokens.mint_to(
        mint=network.mint, destination=network.vault(), authority=authority.public, amount=12_345
    )
    admin = recon.chain.keys.get("admin").keypair()
    recon.chain.call(lambda client: client.send_and_confirm([gift], admin, [authority.keypair()]))
    recon.chain.wait_until_final()

    after = recon.run(reconcile)

    assert (before.ok, after.ok) == (True, True)
    assert after.surplus_atomic - before.surplus_atomic == 12_345
    assert after.vault_atomic - before.vault_atomic == 12_345
    assert after.terms == before.terms


def test_a_counter_that_the_ledger_is_ahead_of_stops_the_comparison(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    agent = payer.agent.pubkey
    post_by_hand(
        Transfer.move(
            "wrong",
            "withdraw",
            debit=chart.bond(agent, recon.mint),
            credit=chart.withdrawn(agent, recon.mint),
            amount_atomic=7,
        )
    )

    with pytest.raises(CommandError, match=f"withdrawals of {agent} fell") as refused:
        call_command("reconcile")

    assert refused.value.returncode == 2
    assert recon.bond(payer.agent) == BOND - 7


def test_a_wrong_entry_is_found_with_its_owner(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    agent, vendor, gateway = payer.agent.pubkey, str(payer.vendor), payer.gateway.pubkey
    settled = recon.settled(payer)
    post_by_hand(
        Transfer.move(
            "wrong-1",
            "deposit",
            debit=chart.deposits(recon.mint),
            credit=chart.bond(agent, recon.mint),
            amount_atomic=7,
        ),
        Transfer.move(
            "wrong-2",
            "distribute",
            debit=chart.deposits(recon.mint),
            credit=chart.settled(vendor, gateway, recon.mint),
            amount_atomic=3,
        ),
    )

    found, code = as_json()

    assert (code, found["ok"], found["trial_balance_atomic"]) == (1, False, 0)
    assert found["differences"] == [
        {"term": "bond", "owner": agent, "gateway": "", "chain_atomic": BOND, "ledger_atomic": BOND + 7},
        {
            "term": "settled",
            "owner": vendor,
            "gateway": gateway,
            "chain_atomic": settled,
            "ledger_atomic": settled + 3,
        },
    ]
    out = StringIO()
    with pytest.raises(SystemExit, match="1"):
        call_command("reconcile", stdout=out)
    assert f"bond of {agent}: chain {BOND}, ledger {BOND + 7} atomic units" in out.getvalue()
    assert f"settled of {vendor} at {gateway}: chain {settled}" in out.getvalue()
    assert out.getvalue().splitlines()[-1] == "NOT EQUAL"


def test_the_nightly_task_logs_one_line_to_alarm_on(recon: Recon, settings: Any) -> None:
    (payer,) = recon.payers(1, LEXICON)
    with capture_logs() as lines:
        reconcile_with_chain()
    (line,) = [line for line in lines if line["event"].startswith("reconcil")]
    assert (line["event"], line["log_level"]) == ("reconciled", "info")

    agent = payer.agent.pubkey
    post_by_hand(
        Transfer.move(
            "wrong",
            "deposit",
            debit=chart.deposits(recon.mint),
            credit=chart.bond(agent, recon.mint),
            amount_atomic=1,
        )
    )
    with capture_logs() as lines:
        reconcile_with_chain()
    (line,) = [line for line in lines if line["event"].startswith("reconcil")]
    assert (line["event"], line["log_level"]) == ("reconciliation_mismatch", "error")
    assert (line["differences"], line["first_differences"]) == (1, [f"bond of {agent}"])

    # Neither does a custodial wallet that cannot be looked at hide it.
    settings.CUSTODY_KEYPAIR = "/nowhere"
    with capture_logs() as lines:
        reconcile_with_chain()
    assert [line["event"] for line in lines][-2:] == ["reconciliation_mismatch", "settlement_paused"]
    assert list(models.Reconciliation.objects.order_by("id").values_list("equal", flat=True)) == [
        True,
        False,
        False,
    ]


def test_traffic_and_other_workers_are_no_difference(recon: Recon) -> None:
    payers = recon.payers(4, LEXICON)
    for payer in payers:
        recon.deliver(payer.pay(1_000))

    def work() -> None:
        try:
            for _ in range(3):
                recon.settle()
                recon.sync()
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        looks = [recon.run(reconcile)]
        while not working.done():
            looks.append(recon.run(reconcile))
        working.result()
    recon.rest()

    assert [look.differences for look in looks if not look.ok] == []
    assert [look.slot for look in looks] == sorted(look.slot for look in looks)


def test_a_chain_that_is_away_is_neither_equal_nor_different(recon: Recon, settings: Any) -> None:
    settings.SOLANA_RPC_URL = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(CommandError) as refused:
        call_command("reconcile")
    assert refused.value.returncode == 2


def test_a_mismatch_is_kept_told_to_staff_and_seen_by_prometheus(
    recon: Recon, django_user_model, client
) -> None:
    (payer,) = recon.payers(1, LEXICON)
    staff = django_user_model.objects.create_user(username="ops", password="pw", is_staff=True)
    with sync_redis().pubsub() as pubsub:
        pubsub.subscribe(live_channel(f"user:{staff.pk}"))
        assert pubsub.get_message(timeout=30) is not None
        assert recon.run(reconcile).ok
        assert "machpay_reconciliation_equal 1.0" in client.get("/metrics").text

        bond, spent = (
            chart.bond(payer.agent.pubkey, recon.mint),
            chart.spent_unsettled(payer.agent.pubkey, recon.mint),
        )
        post_by_hand(
            Transfer.move("by hand", chart.TransferKind.SETTLE, debit=bond, credit=spent, amount_atomic=7)
        )
        found = recon.run(reconcile)

        message = pubsub.get_message(timeout=30)
    assert [(line.term, line.chain_atomic - line.ledger_atomic) for line in found.differences] == [
        ("bond", 7),
        ("spent_unsettled", -7),
    ]
    assert message is not None
    told = json.loads(message["data"])
    assert (told["event"], told["data"]["type"], told["data"]["differences"]) == (
        "alert",
        "reconciliation_mismatch",
        2,
    )
    kept = models.Reconciliation.objects.order_by("-id")[0]
    assert (kept.equal, [each["owner"] for each in kept.differences]) == (False, [payer.agent.pubkey] * 2)
    assert "machpay_reconciliation_equal 0.0" in client.get("/metrics").text


def test_every_part_of_every_term_is_listed_on_demand(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(4_000))
    out = StringIO()

    call_command("reconcile", "--json", "--lines", stdout=out)

    lines = {
        (each["term"], each["owner"]): each["ledger_atomic"] for each in json.loads(out.getvalue())["lines"]
    }
    assert lines["bond", payer.agent.pubkey] == BOND
    assert lines["spent_unsettled", payer.agent.pubkey] == -4_000
    assert lines["unsettled", str(payer.vendor)] == 4_000
