"""The `machpay` command against a real gateway: results on stdout, costs and errors on stderr, exit codes."""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest

from machpay import cli
from machpay.chain.errors import ConfirmationTimeout, ProgramError, RpcUnavailable
from machpay.cli import codes, options
from machpay.cli.parser import parser
from machpay.client import receipts as kept
from machpay.client.errors import DepositUnresolvedError
from machpay.client.lines import LineFile
from machpay.client.receipts import ReceiptFile
from machpay.protocol.keys import SigningKey
from machpay.runner import Tally
from tests.gateway.conftest import eventually
from tests.gateway.factories import PRICE, network
from tests.gateway.network_standin import Account
from tests.sdk.model import GATEWAY, a_receipt
from tests.sdk.relay import Relay


@pytest.fixture
def manifest(gateway, tmp_path, key):
    """What `make demo` writes, for this test's gateway."""
    key.save(tmp_path / "agent.json")
    net = network()
    document = {
        "program_id": str(net.program_id),
        "mint": str(net.mint),
        "domain": str(net.domain),
        "gateways": [
            {
                "gateway": gateway.settings.key.pubkey,
                "url": gateway.url,
                "paid_path": "/paid?x=1",
                "method": "GET",
                "price_atomic": PRICE,
            }
        ],
        "agents": [{"agent": key.pubkey, "keypair_file": "agent.json"}],
    }
    path = tmp_path / "demo.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def own(manifest, tmp_path, monkeypatch):
    """The options that name this test's agent, and nothing of ours in the environment."""
    for name in ("MACHPAY_AGENT_SECRET", "MACHPAY_NETWORK", "MACHPAY_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    own = ["--network", str(manifest), "--key", str(tmp_path / "agent.json")]
    return [*own, "--state-dir", str(tmp_path / "state")]


@pytest.fixture
def run(own, capsys):
    """Run the command in a thread; returns exit code, stdout, stderr."""

    async def execute(*arguments: str, with_own: bool = True) -> tuple[int, str, str]:
        code = await asyncio.to_thread(cli.main, [*arguments, *(own if with_own else [])])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return execute


def test_init_makes_a_private_key_file_once(tmp_path, capsys):
    path = tmp_path / "secret_key.json"
    assert cli.main(["agent", "init", "--key", str(path), "--json"]) == cli.OK
    assert json.loads(capsys.readouterr().out)["agent"] == SigningKey.load(path).pubkey
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    assert cli.main(["agent", "init", "--key", str(path)]) == cli.MISUSED
    assert "never overwritten" in capsys.readouterr().err
    assert path.read_bytes() == before


async def test_call_prints_the_body_and_the_cost_apart(run, gateway, upstream):
    code, out, err = await run("call", gateway.url + "/paid", "--json", '{"a":1}', "-H", "X-Own: 7")
    assert (code, json.loads(out)) == (cli.OK, {"path": "/paid", "body": 7})
    assert err.startswith(f"HTTP 200, cost 0.{PRICE:06d} USDC, payment ")
    method, _, headers, body = upstream.seen[-1]
    assert (method, body, headers["x-own"]) == ("POST", b'{"a":1}', "7")
    code, out, err = await run("--json", "call", gateway.url + "/paid", "-X", "post", "-d", "x")
    assert json.loads(err)["charged_atomic"] == PRICE
    assert (upstream.seen[-1][0], upstream.seen[-1][3]) == ("POST", b"x")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["/paid", "--max-price", "0.000001"], cli.FORBIDDEN, "the limit is 1"),
        (["/paid?mode=status-500"], cli.FAILED, "HTTP 500, cost 0.000000 USDC"),
        (["/free"], cli.OK, "cost 0.000000 USDC\n"),
    ],
)
async def test_the_exit_code_says_how_a_call_ended(run, gateway, arguments, code, says):
    target, *rest = arguments
    found, _, err = await run("call", gateway.url + target, *rest)
    assert found == code
    assert says in err


async def test_what_cannot_be_reached_or_used_is_told_without_a_traceback(run, manifest, tmp_path):
    assert (await run("call", "http://127.0.0.1:9/x"))[0] == cli.UNREACHABLE
    for url in ("nonsense", "http://x:bad", "http://127.0.0.1:70000/x"):
        assert (await run("call", url))[0] == cli.MISUSED
    code, out, err = await run("agent", "balance", "--json")
    assert (code, out) == (cli.MISUSED, "")
    assert json.loads(err)["error"] == "ConfigError"
    missing = ["--key", str(tmp_path / "none.json"), "--network", str(manifest)]
    code, _, err = await run("call", "http://127.0.0.1:9/x", *missing, with_own=False)
    assert code == cli.MISUSED
    assert "there is no key file" in err
    code, _, err = await run("receipts", "--key", missing[1], with_own=False)
    assert (code, "--key names another" in err) == (cli.MISUSED, True)
    (tmp_path / "k.json").write_bytes((tmp_path / "agent.json").read_bytes())
    code, _, err = await run("receipts", "--key", str(tmp_path / "k.json"), with_own=False)
    assert (code, "--network" in err) == (cli.MISUSED, True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
async def test_an_answer_that_cannot_be_written_is_not_reported_as_misuse(run, own, gateway):
    def call() -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "machpay.cli", "call", gateway.url + "/paid", *own]
        with Path("/dev/full").open("wb") as full:
            return subprocess.run(command, check=False, stdout=full, stderr=subprocess.PIPE, text=True)

    done = await asyncio.to_thread(call)
    told, why = done.stderr.splitlines()
    assert (done.returncode, told.startswith(f"HTTP 200, cost 0.{PRICE:06d} USDC")) == (cli.UNKNOWN, True)
    assert why.startswith("machpay: the answer could not be written")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProgramError(0x111), cli.REFUSED),
        (RpcUnavailable("away"), cli.UNREACHABLE),
        (ConfirmationTimeout("not seen"), cli.UNKNOWN),
        (DepositUnresolvedError("not seen"), cli.UNKNOWN),
    ],
)
def test_the_exit_code_tells_what_is_refused_from_what_is_unknown(error, code):
    assert codes.exit_code(error) == code


async def test_an_unknown_outcome_is_told_with_where_it_can_be_looked_up(run, gateway, upstream):
    async with Relay(gateway.url) as relay:
        relay.plan.extend(["pass", "cut after", *["cut before"] * 20])
        code, out, err = await run("call", relay.url + "/paid")
        relay.plan.clear()
        assert (code, out) == (cli.UNKNOWN, "")
        (address,) = (word for word in err.split() if "/.well-known/" in word)
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
            assert (await http.get(address)).json()["status"] == "served"


def test_a_command_does_not_say_that_it_co_signs(own):
    parsed = parser().parse_args(["agent", "balance", *own])
    assert not options.config_of(parsed).cosigns


async def test_what_was_not_served_is_listed_for_a_complaint(run, gateway, key, net):
    code, out, err = await run("receipts")
    assert (code, out, "no receipts" in err) == (cli.OK, "", True)
    code, out, err = await run("complain")
    assert (code, out, "was served" in err) == (cli.OK, "", True)
    net.accounts[key.pubkey] = Account(bond=PRICE)
    await run("call", gateway.url + "/paid?mode=status-503")
    assert (await run("call", gateway.url + "/dear"))[0] == cli.REFUSED
    code, out, _ = await run("complain", "--json")
    listed = [json.loads(line) for line in out.splitlines()]
    assert [(one["reason"], one["receipt"]) for one in listed] == [
        ("http_503", True),
        ("insufficient_bond", False),
    ]
    assert {one["gateway"] for one in listed} == {gateway.settings.key.pubkey}
    code, _, err = await run("complain", listed[0]["payment"])
    assert (code, "relayer_url" in err) == (cli.MISUSED, True)
    with pytest.raises(SystemExit) as misused:
        await run("complain", "abc")
    assert misused.value.code == cli.MISUSED


@pytest.mark.parametrize("amount", ["0", "-1", "0.0000001", "x", "NaN", "inf"])
def test_amounts_that_are_none_are_refused(amount, capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(["agent", "deposit", f" {amount}"])
    assert raised.value.code == cli.MISUSED
    assert "amount" in capsys.readouterr().err


def test_usdc_amounts_become_atomic_units():
    assert [options.amount(text) for text in ("1", "0.000001", "12.5")] == [1_000_000, 1, 12_500_000]
    assert options.usdc(12_500_001) == "12.500001"


async def test_receipts_are_kept_listed_and_checked(run, gateway, tmp_path):
    for _ in range(2):
        await run("call", gateway.url + "/paid")
    await run("call", gateway.url + "/paid?mode=status-500")
    code, out, _ = await run("receipts", "list", "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    assert code == cli.OK
    assert [line["receipt"]["charged"] for line in lines] == [str(PRICE), str(PRICE), "0"]
    code, out, _ = await run("receipts", "verify", "--json")
    assert (code, json.loads(out)) == (cli.OK, {"valid": 3, "invalid": 0, "charged_atomic": 2 * PRICE})
    (path,) = (tmp_path / "state").glob("*.receipts.jsonl")
    path.write_text(path.read_text().replace('"httpStatus":500', '"httpStatus":200'))
    code, out, _ = await run("receipts", "verify")
    assert (code, out) == (cli.FAILED, f"2 valid receipts over 0.{2 * PRICE:06d} USDC, 1 invalid\n")


def test_the_receipt_file_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "MAX_FILE_BYTES", 2_000)
    file = ReceiptFile(tmp_path / "r.jsonl")
    for number in range(50):
        file.add(GATEWAY.public, a_receipt(bytes(32), charged=1, served_total=number))
    totals = [json.loads(line)["receipt"]["servedTotal"] for line in file.lines()]
    assert 5 <= len(totals) < 20
    assert totals == [str(number) for number in range(50 - len(totals), 50)]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 5_000


def test_a_file_that_another_process_is_about_to_move_is_left_to_it(tmp_path):
    """Moving it twice would put the new file in the place of the full one."""
    file = LineFile(tmp_path / "r.jsonl", 100)
    previous = tmp_path / "r.previous.jsonl"
    previous.write_bytes(b"full\n")
    (tmp_path / "r.jsonl").write_bytes(b"x" * 101 + b"\n")
    file.append(b"one more")
    assert previous.read_bytes() == b"full\n"
    assert [*file.read()] == [b"full", b"x" * 101, b"one more"]


async def test_call_under_a_payment_id_is_charged_once(run, gateway, upstream, net):
    told = []
    for _ in range(2):
        code, out, err = await run(
            "--json", "call", gateway.url + "/paid", "--payment-id", "order-0123456789"
        )
        assert (code, json.loads(out)) == (cli.OK, {"path": "/paid", "body": 0})
        told.append(json.loads(err)["payment"])
    assert told[0] == told[1]
    assert len(upstream.seen) == 1
    await eventually(lambda: net.charged == PRICE, "charged once")


async def test_run_e2e_pays_and_adds_up(run, manifest, net, upstream):
    code, out, err = await run(
        *("--json", "run-e2e", "--manifest", str(manifest), "--rate", "200", "--duration", "1.2"),
        with_own=False,
    )
    summary = json.loads(out)
    assert (code, summary["mismatches"], summary["failures"]) == (cli.OK, {}, {})
    assert summary["paid"] == len(upstream.seen) > 0
    assert list(summary["charged_atomic"].values()) == [summary["paid"] * PRICE]
    assert json.loads(err.splitlines()[0])["paid"] <= summary["paid"]
    await eventually(lambda: net.charged == summary["paid"] * PRICE, "the relayer agrees")


async def test_run_e2e_fails_on_another_price_and_when_nothing_is_paid(run, manifest):
    document = json.loads(manifest.read_text())
    document["gateways"][0]["price_atomic"] = PRICE - 1
    manifest.write_text(json.dumps(document))
    arguments = ("run-e2e", "--manifest", str(manifest), "--rate", "50", "--duration", "1", "--json")
    code, out, _ = await run(*arguments, with_own=False)
    summary = json.loads(out)
    assert (code, summary["mismatches"]) == (cli.FAILED, {"another_price": summary["paid"]})
    document["gateways"][0]["paid_path"] = "/paid?mode=status-500"
    manifest.write_text(json.dumps(document))
    code, out, _ = await run(*arguments, with_own=False)
    summary = json.loads(out)
    assert (code, summary["paid"], summary["mismatches"]) == (cli.FAILED, 0, {})
    assert summary["failures"]["http_500"] > 0


def test_a_gateway_whose_total_is_below_its_charges_is_a_mismatch():
    tally = Tally(charged_atomic=Counter({"g": 5}))
    tally.served_totals = {("a", "g"): 3, ("b", "g"): 1}
    assert tally.summary()["mismatches"] == {"total_below_charges": 1}
    tally.served_totals["b", "g"] = 2
    assert tally.summary()["mismatches"] == {}


def test_help_lists_the_exit_codes_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "machpay.cli", "call", "--help"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert cli.EXIT_CODES in done.stdout
