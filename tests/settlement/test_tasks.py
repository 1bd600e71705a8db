"""The tasks as beat runs them: what stops everybody is one line of log, and nothing moved."""

import asyncio
import contextvars
from pathlib import Path

import pytest
from celery import signals
from django.db import connection
from solders.hash import Hash
from solders.pubkey import Pubkey
from structlog.testing import capture_logs

from apps.payments.models import Settlement
from apps.payments.services import network as binding
from apps.settlement.chain import close_connections, connect, keep_connections
from apps.settlement.tasks import (
    anchor_payments,
    extend_lookup_tables,
    find_fraud,
    follow_transactions,
    mirror_chain,
    reconcile_with_chain,
    settle_channels,
    suspend_and_reverse,
    sweep_forfeits,
    watch_bonds,
)
from devnet.offers import LEXICON
from devnet.services.ports import free_port
from machpay.chain.client import ChainClient
from machpay.chain.network import Network
from machpay.protocol.keys import SigningKey
from machpay_site.celery import app, schedule
from tests.settlement.conftest import BOND, Recon
from tests.support.cable import Cable

TASKS = {
    "settlement.settle": settle_channels,
    "settlement.follow": follow_transactions,
    "settlement.commit_batch": anchor_payments,
    "settlement.sync_chain": mirror_chain,
    "settlement.extend_tables": extend_lookup_tables,
    "settlement.reconcile": reconcile_with_chain,
    "settlement.look_for_fraud": find_fraud,
    "settlement.watch_confirmed": watch_bonds,
    "settlement.watch_solvency": suspend_and_reverse,
    "settlement.sweep": sweep_forfeits,
}


def paused(task: str) -> tuple[str, str]:
    """Run a task that must pause; returns the reason and the detail of its one line."""
    with capture_logs() as lines:
        TASKS[task]()
    (line,) = [line for line in lines if line["log_level"] != "info"]
    assert (line["event"], line["task"], line["log_level"]) == ("settlement_paused", task, "warning")
    assert "exc_info" not in line
    return line["reason"], line["detail"]


def test_every_task_of_the_schedule_exists(settings) -> None:
    app.loader.import_default_modules()
    custody = {"settlement.pay_payouts", "settlement.sync_deposits"}
    assert {entry["task"] for entry in app.conf.beat_schedule.values()}.isdisjoint(custody)
    settings.CUSTODY_KEYPAIR = "a network that keeps users' money"
    scheduled = {entry["task"] for entry in schedule().values()}
    assert {name for name in scheduled if name.startswith("settlement.")} == set(TASKS) | custody
    assert scheduled <= set(app.tasks)


def test_worker_processes_keep_their_chain_connection_until_they_end(
    chain_settings, transactional_db
) -> None:
    signals.worker_process_init.send(sender=None)
    with connect() as first:
        pass
    with connect() as second:
        assert second.client is first.client
    signals.worker_process_shutdown.send(sender=None, pid=0, exitcode=0)
    with connect() as third:
        assert third.client is not first.client


def test_the_tasks_settle_and_follow(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(1_000))

    settle_channels()
    recon.chain.wait_until_final()
    follow_transactions()
    mirror_chain()

    assert recon.states() == ["FINALIZED"]
    assert recon.statuses(payer) == ["SETTLED"]
    assert recon.liability(payer.agent) == 0


@pytest.mark.parametrize("task", TASKS)
def test_a_chain_that_is_away_is_one_line(recon: Recon, settings, task: str) -> None:
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(1_000))
    settings.SOLANA_RPC_URL = f"http://127.0.0.1:{free_port()}"

    reason, _detail = paused(task)

    assert reason == "RpcUnavailable"
    assert recon.states() == []
    assert recon.liability(payer.agent) == 1_000


def test_a_standby_that_takes_no_writes_yet_is_one_line(recon: Recon) -> None:
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(1_000))
    with connection.cursor() as cursor:
        cursor.execute("SET default_transaction_read_only = on")
    try:
        reason, _detail = paused("settlement.settle")
    finally:
        connection.close()
    assert (reason, recon.states()) == ("DatabaseUnavailable", [])


def test_settling_goes_on_when_the_chain_is_back(recon: Recon, settings) -> None:
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(1_000))
    with Cable(recon.chain.rpc_url) as cable:
        settings.SOLANA_RPC_URL = cable.url
        settle_channels()
        (stored,) = Settlement.objects.all()
        cable.cut()
        assert paused("settlement.follow")[0] == "RpcUnavailable"
        assert paused("settlement.settle")[0] == "RpcUnavailable"
        cable.mend()
        recon.rest()
    (ended,) = Settlement.objects.all()
    assert (ended.id, ended.state, ended.paid_atomic) == (stored.id, "FINALIZED", 1_000)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("part", ["domain", "program_id", "mint"])
def test_a_database_of_another_network_is_left_alone(
    transactional_db, chain_settings, task: str, part: str
) -> None:
    parts = {
        "domain": chain_settings.network.domain,
        "program_id": chain_settings.network.program_id,
        "mint": chain_settings.network.mint,
    }
    parts[part] = Hash.new_unique() if part == "domain" else Pubkey.new_unique()
    other = Network(**parts)
    binding.bind(other)

    reason, detail = paused(task)

    assert reason == "NetworkMismatch"
    assert f"{part} {parts[part]}" in detail
    assert binding.bound_network() == other


def test_a_fresh_database_is_bound_to_the_chain_it_is_first_used_with(
    transactional_db, chain_settings
) -> None:
    mirror_chain()
    assert binding.bound_network() == chain_settings.network


@pytest.mark.parametrize("name", ["SOLANA_RPC_URL", "MACHPAY_PROGRAM_ID", "USDC_MINT"])
@pytest.mark.parametrize("task", TASKS)
def test_a_missing_setting_is_named(recon: Recon, settings, task: str, name: str) -> None:
    setattr(settings, name, "")
    assert paused(task) == ("SettlementPaused", f"{name} is not set")


def test_an_address_that_is_none_is_named(recon: Recon, settings) -> None:
    settings.USDC_MINT = "not-a-mint"
    assert paused("settlement.settle") == ("SettlementPaused", "USDC_MINT is not an address: 'not-a-mint'")


class TestKeptConnections:
    """What a worker process keeps from task to task."""

    @pytest.fixture(autouse=True)
    def keeping(self, chain_settings, transactional_db):
        keep_connections()
        yield
        close_connections()

    def test_the_next_task_uses_the_client_of_the_last_one(self) -> None:
        with connect() as first:
            pass
        with connect() as second:
            assert second.client is first.client
            assert second.run(second.client.slot()) > 0

    def test_two_sessions_at_once_have_a_client_each(self) -> None:
        with connect() as outer, connect() as inner:
            assert inner.client is not outer.client
            assert outer.run(outer.client.slot()) <= inner.run(inner.client.slot())

    def test_a_client_of_another_address_is_not_used(self, settings) -> None:
        with connect() as first:
            pass
        with Cable(settings.SOLANA_RPC_URL) as cable:
            settings.SOLANA_RPC_URL = cable.url
            with connect() as second:
                assert second.client is not first.client
            close_connections()

    def test_a_task_that_broke_off_leaves_nothing_to_the_next(self, settings) -> None:
        ended: list[str] = []

        async def forever() -> None:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append("cancelled")

        async def start() -> None:
            tasks.append(asyncio.create_task(forever()))
            await asyncio.sleep(0)

        tasks: list[asyncio.Task[None]] = []
        used: list[ChainClient] = []

        def break_off() -> None:
            with connect() as first:
                used.append(first.client)
                first.run(start())
                raise RuntimeError("broke off")

        with pytest.raises(RuntimeError, match="broke off"):
            break_off()
        assert ended == ["cancelled"]
        with connect() as second:
            assert second.client not in used

    def test_a_cut_connection_is_replaced(self, settings) -> None:
        with Cable(settings.SOLANA_RPC_URL) as cable:
            settings.SOLANA_RPC_URL = cable.url
            with connect() as first:
                pass
            cable.cut()
            cable.mend()
            with connect() as second:
                assert second.client is first.client
                assert second.run(second.client.slot()) > 0
            close_connections()

    def test_each_session_logs_with_its_own_context(self) -> None:
        task = contextvars.ContextVar("task", default="none")

        async def named() -> str:
            return task.get()

        seen = []
        for name in ("settle", "follow"):
            task.set(name)
            with connect() as session:
                seen.append(session.run(named()))
        assert seen == ["settle", "follow"]

    def test_without_keeping_every_session_closes_its_own(self) -> None:
        close_connections()
        with connect() as first:
            pass
        with connect() as second:
            assert second.client is not first.client


class TestRelayerKey:
    """Without the relayer's key nothing is planned; following and mirroring go on."""

    @pytest.fixture(autouse=True)
    def owing(self, recon: Recon):
        (payer,) = recon.payers(1, LEXICON)
        recon.deliver(payer.pay(1_000))
        yield
        assert recon.states() == []
        assert recon.channel(payer).in_flight_id is None
        assert recon.bond(payer.agent) == BOND
        mirror_chain()
        follow_transactions()

    def test_not_set(self, settings) -> None:
        settings.RELAYER_KEYPAIR = ""
        assert paused("settlement.settle") == ("SettlementPaused", "RELAYER_KEYPAIR is not set")

    def test_no_such_file(self, settings, tmp_path: Path) -> None:
        settings.RELAYER_KEYPAIR = str(tmp_path / "none.json")
        reason, detail = paused("settlement.settle")
        assert reason == "SettlementPaused"
        assert detail.startswith(f"RELAYER_KEYPAIR ({tmp_path}/none.json) cannot be used: ")

    def test_no_key_in_it(self, settings, tmp_path: Path) -> None:
        path = tmp_path / "key.json"
        path.write_text("[1, 2, 3]")
        settings.RELAYER_KEYPAIR = str(path)
        reason, detail = paused("settlement.settle")
        assert reason == "SettlementPaused"
        assert "a secret key has 32 or 64 bytes, not 3" in detail

    def test_somebody_elses_key(self, recon: Recon, settings, tmp_path: Path) -> None:
        stranger = SigningKey.generate()
        stranger.save(tmp_path / "key.json")
        settings.RELAYER_KEYPAIR = str(tmp_path / "key.json")
        relayer = recon.chain.keys.get("relayer").pubkey
        assert paused("settlement.settle") == (
            "SettlementPaused",
            f"the chain's relayer is {relayer}, RELAYER_KEYPAIR holds {stranger.pubkey}",
        )
