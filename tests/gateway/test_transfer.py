"""`machpay-gateway export` and `import` over logs of the real gateway code; the relayer's side is in tests/e2e."""

import asyncio
import json
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from machpay.protocol.settlements import BadLine, Line, read_items
from machpay_gateway.payments import Payments
from machpay_gateway.settings import load_settings
from machpay_gateway.transfer.reading import replay
from tests.gateway.commands import Command, command
from tests.gateway.factories import configuration
from tests.gateway.logs import AGENTS, KEY, accept, running, serve

__all__ = ["command"]

FIRST, SECOND, THIRD = (agent.pubkey for agent in AGENTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A gateway's folder without a log."""
    (tmp_path / "gateway.toml").write_text(configuration(tmp_path, key=KEY))
    return tmp_path


def with_log(folder: Path, work: Callable[[Payments], object]) -> None:
    """Run `work` on the log of the gateway in `folder`."""

    async def run() -> None:
        async with running(folder / "data") as payments:
            work(payments)
            await payments.durable()

    asyncio.run(run())


def three_payments(payments: Payments) -> None:
    """Seq 1: FIRST charged 10; 2: SECOND void; 3: FIRST charged 30; and one of THIRD that stays open."""
    serve(payments, AGENTS[0], 10)
    ticket = accept(payments, AGENTS[1], 20)
    payments.resolve(ticket, 500, 0, final=True)
    payments.sent(ticket)
    serve(payments, AGENTS[0], 30)
    accept(payments, AGENTS[2], 40)


def items(text: str) -> list[dict[str, Any]]:
    found = list(read_items(line.encode() for line in text.splitlines()))
    assert not [line for line in found if isinstance(line, BadLine)]
    return [json.loads(line.raw) for line in found if isinstance(line, Line)]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "data" / "log").iterdir()}


def test_completed_payments_leave_in_order_and_the_log_stays_as_it_is(command: Command, folder: Path) -> None:
    with_log(folder, three_payments)
    before = content(folder)
    ran = command("export", "--config", folder / "gateway.toml")
    assert ran.code == 0, ran.err
    lines = items(ran.out)
    assert [(line["seq"], line["agent"], line["status"], line["charged"]) for line in lines] == [
        (1, FIRST, "charged", "10"),
        (2, SECOND, "void", "0"),
        (3, FIRST, "charged", "30"),
    ]
    assert ran.err == "3 of 3 payments in the log written to stdout; 1 are still open and not in it\n"
    assert content(folder) == before


@pytest.mark.parametrize(
    ("flags", "seqs"),
    [
        (["--agent", FIRST], [1, 3]),
        (["--agent", SECOND, "--agent", THIRD], [2]),
        (["--status", "charged"], [1, 3]),
        (["--status", "void"], [2]),
        (["--seq-from", "2"], [2, 3]),
        (["--seq-from", "2", "--seq-to", "2"], [2]),
        (["--since", "1h"], [1, 2, 3]),
        (["--until", "1h"], []),
        (["--since", "2020-01-01T00:00:00Z", "--until", "2020-01-02T00:00:00Z"], []),
        (["--undelivered"], [3]),
    ],
)
def test_payments_are_chosen(command: Command, folder: Path, flags: list[str], seqs: list[int]) -> None:
    from machpay_gateway.log.records import Delivered

    def work(payments: Payments) -> None:
        three_payments(payments)
        payments.journal.append(Delivered(2))

    with_log(folder, work)
    ran = command("export", "--config", folder / "gateway.toml", *flags)
    assert ran.code == 0, ran.err
    assert [line["seq"] for line in items(ran.out)] == seqs


def test_a_file_appears_whole_and_private_and_is_not_replaced_unasked(command: Command, folder: Path) -> None:
    with_log(folder, three_payments)
    target = folder / "out.jsonl"
    flags = ["export", "--json", "--config", folder / "gateway.toml", "--output", target]
    ran = command(*flags, "--status", "charged")
    assert ran.code == 0, ran.err
    assert ran.result == {
        "read": 3,
        "written": 2,
        "charged_atomic": 40,
        "seq_first": 1,
        "seq_last": 3,
        "delivered": 0,
        "open": 1,
        "output": str(target),
    }
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    before = target.read_bytes()
    assert (command(*flags).code, target.read_bytes()) == (3, before)
    assert command(*flags, "--force").result["written"] == 3
    assert target.read_bytes().startswith(before.splitlines()[0])


def test_without_a_log_there_is_nothing_to_export_and_no_file(command: Command, folder: Path) -> None:
    ran = command("export", "--config", folder / "gateway.toml", "--output", folder / "out.jsonl")
    assert ran.code == 2
    assert "there is no log" in ran.err
    assert [path.name for path in folder.iterdir() if "export" in path.name or "out" in path.name] == []


def test_export_reads_beside_a_running_gateway(command: Command, folder: Path) -> None:
    def work(payments: Payments) -> None:
        three_payments(payments)

    async def run() -> Any:
        async with running(folder / "data") as payments:
            work(payments)
            await payments.durable()
            return await asyncio.to_thread(command, "export", "--config", folder / "gateway.toml")

    assert [line["seq"] for line in items(asyncio.run(run()).out)] == [1, 2, 3]


def exported(command: Command, folder: Path) -> Path:
    with_log(folder, three_payments)
    target = folder / "settlements.jsonl"
    assert command("export", "--config", folder / "gateway.toml", "--output", target).code == 0
    return target


def test_lines_that_do_not_prove_themselves_are_named(command: Command, folder: Path) -> None:
    first, second, third = exported(command, folder).read_text().splitlines()
    raised = json.loads(first) | {"charged": "9"}
    foreign = json.loads(second) | {"gateway": FIRST}
    bare = {name: value for name, value in json.loads(third).items() if name != "receipt"}
    mixed = [json.dumps(raised), json.dumps(foreign), json.dumps(bare), '{"agent": 1', "", third]
    (folder / "mixed.jsonl").write_text("\n".join(mixed))
    ran = command(
        "import", "--json", "--dry-run", "--config", folder / "gateway.toml", "--file", folder / "mixed.jsonl"
    )
    assert ran.code == 3
    assert (ran.result["found"], ran.result["good"], ran.result["bad"]) == (5, 1, 4)
    assert [problem["line"] for problem in ran.result["problems"]] == [1, 2, 3, 4]
    reasons = [problem["reason"] for problem in ran.result["problems"]]
    assert reasons[0].startswith("a signature is wrong")
    assert reasons[1] == "the item names another gateway than the sender"
    assert reasons[2].startswith("it has no receipt")


def test_a_relayer_that_is_away_is_told_again_later(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = exported(command, folder)
    monkeypatch.setattr("machpay_gateway.transfer.importing.ATTEMPTS", 1)
    ran = command("import", "--json", "--config", folder / "gateway.toml", "--file", file)
    assert ran.code == 1
    assert (ran.result["good"], ran.result["imported"]) == (3, 0)
    assert "run it again for the rest" in ran.error["detail"]


def channels(folder: Path) -> dict[str, tuple[int, int, bool]]:
    """(highest, served, whether the voucher is held) of each channel that has any, by the log on the disk."""
    book = replay(load_settings(folder / "gateway.toml"))
    return {
        str(agent): (channel.highest, channel.served, channel.voucher is not None)
        for agent, channel in book.channels.items()
        if channel.highest
    }


def test_a_lost_log_gets_its_totals_back_from_an_export(command: Command, folder: Path) -> None:
    file = exported(command, folder)
    shutil.rmtree(folder / "data" / "log")
    flags = ["import", "--json", "--into-log", "--config", folder / "gateway.toml", "--file", file]

    dry = command(*flags, "--dry-run")
    assert (dry.code, len(dry.result["channels"])) == (0, 2)
    assert list((folder / "data" / "log").glob("*.log")) == []

    ran = command(*flags)
    assert ran.code == 0, ran.err
    assert channels(folder) == {FIRST: (40, 40, True), SECOND: (20, 0, True)}

    again = command(*flags)
    assert (again.code, again.result["channels"]) == (0, [])
    # A payment that was served may not be served again: its nonce came back with it.
    nonces = replay(load_settings(folder / "gateway.toml")).guard.snapshot()
    assert len(nonces) == 3


def test_a_part_of_an_export_leaves_a_voucher_that_can_be_claimed(command: Command, folder: Path) -> None:
    def out_of_order(payments: Payments) -> None:
        """Two at once: what was signed first is charged last."""
        first, second = accept(payments, AGENTS[0], 10), accept(payments, AGENTS[0], 30)
        for ticket, price in ((second, 30), (first, 10)):
            payments.resolve(ticket, 200, price, final=True)
            payments.sent(ticket)

    with_log(folder, out_of_order)
    last = command("export", "--config", folder / "gateway.toml", "--seq-from", "2")
    (item,) = items(last.out)
    assert (item["cumulative"], item["served_total"]) == ("10", "40")
    (folder / "part.jsonl").write_text(last.out)
    shutil.rmtree(folder / "data" / "log")
    ran = command(
        *("import", "--json", "--into-log", "--config", folder / "gateway.toml"),
        *("--file", folder / "part.jsonl"),
    )
    assert ran.code == 0, ran.err
    assert channels(folder) == {FIRST: (10, 10, True)}


def test_another_folder_brings_also_what_was_delivered_and_forgotten(command: Command, folder: Path) -> None:
    with_log(folder, three_payments)
    (folder / "data").rename(folder / "old")
    with_log(folder, lambda payments: serve(payments, AGENTS[0], 5))
    ran = command(
        *("import", "--json", "--into-log", "--config", folder / "gateway.toml"),
        *("--from-data-dir", folder / "old"),
    )
    assert ran.code == 0, ran.err
    # Only ever upwards; the open payment's signed total comes too, because `claim` may need it.
    assert channels(folder) == {FIRST: (40, 40, True), SECOND: (20, 0, True), THIRD: (40, 0, True)}
    own = command("import", "--config", folder / "gateway.toml", "--from-data-dir", folder / "data")
    assert own.code == 2


def test_totals_are_not_restored_under_a_running_gateway(command: Command, folder: Path) -> None:
    file = exported(command, folder)

    async def run() -> Any:
        async with running(folder / "data"):
            return await asyncio.to_thread(
                command, "import", "--into-log", "--config", folder / "gateway.toml", "--file", file
            )

    before = channels(folder)
    ran = asyncio.run(run())
    assert ran.code == 2
    assert "in use by another gateway" in ran.err
    assert channels(folder) == before
