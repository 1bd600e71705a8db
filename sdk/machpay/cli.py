"""The `machpay` command: an agent's key, bond, paid calls and receipts.

Reads the environment as `MachPayConfig.from_env` does; options override it. Results go to stdout, everything
else to stderr; `--json` makes both JSON. Errors never show a traceback.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import threading
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin

import httpx

from machpay import __version__
from machpay.chain.errors import ChainError
from machpay.client import MachPayClient, MachPayConfig
from machpay.client.errors import (
    BondError,
    BudgetError,
    ConfigError,
    GatewayUnreachableError,
    PriceTooHighError,
    ReceiptError,
    ResponseLostError,
    UnresolvedPaymentError,
)
from machpay.client.receipts import KeptReceipt, ReceiptFile
from machpay.client.store import state_path
from machpay.client.withdrawals import BondInfo
from machpay.errors import MachPayError
from machpay.protocol.encoding import to_rfc3339
from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SigningKey
from machpay.runner import Tally, Target, buy_until

OK, UNREACHABLE, MISUSED, FORBIDDEN, REFUSED, UNKNOWN, FAILED = range(7)
INTERRUPTED: Final = 130
EXIT_CODES: Final = """exit codes:
  0  done
  1  gateway, chain or relayer could not be reached; nothing was charged
  2  wrong arguments, configuration or key
  3  the agent's own limits forbid it; nothing was signed
  4  the gateway, the program or the wallet refused it; nothing was charged
  5  the answer was lost or the outcome is unknown: the payment may have been charged
  6  call: an HTTP error status; receipts verify: an invalid receipt; run-e2e: a mismatch, or nothing paid
"""
USDC: Final = 1_000_000
DEFAULT_KEY: Final = "secret_key.json"
LIVE_LINE_S: Final = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (MachPayError, OSError, httpx.InvalidURL) as error:
        return _fail(options, error)
    return code


def _fail(options: argparse.Namespace, error: Exception) -> int:
    kind = type(error).__name__
    if options.as_json:
        print(json.dumps({"error": kind, "detail": str(error)}), file=sys.stderr)
    else:
        print(f"machpay: {error}", file=sys.stderr)
    return _exit_code(error)


def _exit_code(error: Exception) -> int:
    for kinds, code in (
        ((ConfigError, MalformedError, OSError, httpx.InvalidURL), MISUSED),
        ((BudgetError, PriceTooHighError), FORBIDDEN),
        ((UnresolvedPaymentError, ResponseLostError, ReceiptError), UNKNOWN),
        ((BondError,), REFUSED),
        ((GatewayUnreachableError, ChainError), UNREACHABLE),
    ):
        if isinstance(error, kinds):
            return code
    return REFUSED


def _say(options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    print(json.dumps(result) if options.as_json else text)


def _config(options: argparse.Namespace) -> MachPayConfig:
    environment = dict(os.environ)
    if options.key is not None or not environment.get("MACHPAY_AGENT_SECRET"):
        environment["MACHPAY_AGENT_SECRET"] = options.key or DEFAULT_KEY
    if options.network is not None:
        environment["MACHPAY_NETWORK"] = options.network
    environment["MACHPAY_STATE_DIR"] = str(_state_dir(options))
    return MachPayConfig.from_env(environment)


def _state_dir(options: argparse.Namespace) -> Path:
    return Path(options.state_dir or os.environ.get("MACHPAY_STATE_DIR") or Path.home() / ".machpay")


# ---- agent


def _agent_init(options: argparse.Namespace) -> int:
    path = Path(options.key or DEFAULT_KEY)
    key = SigningKey.generate()
    try:
        key.save(path)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists; a key is never overwritten") from error
    _say(options, {"agent": key.pubkey, "key_file": str(path)}, f"agent {key.pubkey}, key in {path}")
    return OK


def _agent_balance(options: argparse.Namespace) -> int:
    async def ask() -> tuple[str, int]:
        async with MachPayClient(_config(options)) as client:
            return client.agent, await client.get_bond_balance()

    agent, bond = asyncio.run(ask())
    _say(options, {"agent": agent, "bond_atomic": bond}, f"{_usdc(bond)} USDC")
    return OK


def _agent_deposit(options: argparse.Namespace) -> int:
    async def deposit() -> tuple[str, int]:
        async with MachPayClient(_config(options)) as client:
            signature = await client.deposit_bond(options.amount_atomic)
            return signature, await client.get_bond_balance()

    signature, bond = asyncio.run(deposit())
    _say(
        options,
        {"transaction": signature, "deposited_atomic": options.amount_atomic, "bond_atomic": bond},
        f"{signature}\nbond {_usdc(bond)} USDC",
    )
    return OK


def _agent_withdraw(options: argparse.Namespace) -> int:
    async def withdraw() -> tuple[str, BondInfo]:
        async with MachPayClient(_config(options)) as client:
            if options.cancel:
                signature = await client.cancel_withdrawal()
            else:
                signature = await client.withdraw_bond(options.amount_atomic)
            return signature, await client.get_bond_info()

    if options.cancel == (options.amount_atomic is not None):
        raise ConfigError("withdraw takes either an amount or --cancel")
    signature, info = asyncio.run(withdraw())
    pending = (
        f", {_usdc(info.pending_withdrawal)} USDC unlock at {to_rfc3339(info.unlocks_at)}"
        if info.unlocks_at
        else ""
    )
    _say(
        options,
        {
            "transaction": signature,
            "bond_atomic": info.balance,
            "pending_atomic": info.pending_withdrawal,
            "unlocks_at": info.unlocks_at,
        },
        f"{signature}\nbond {_usdc(info.balance)} USDC{pending}",
    )
    return OK


# ---- call


def _call(options: argparse.Namespace) -> int:
    return asyncio.run(_stream_call(options))


async def _stream_call(options: argparse.Namespace) -> int:
    headers = dict(options.header)
    data = options.data if options.json_data is None else options.json_data
    if options.json_data is not None:
        headers = {"Content-Type": "application/json", "Accept": "application/json"} | headers
    content = _data(data)
    method = options.method or ("GET" if content is None else "POST")
    async with (
        MachPayClient(_config(options)) as client,
        client.stream(
            options.url,
            method,
            headers=headers,
            content=content,
            max_price_atomic=options.max_price_atomic,
            retries=options.retries,
        ) as response,
    ):
        async for piece in response.aiter_bytes():
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    payment = response.payment
    digest = None if payment is None else payment.digest.hex()
    result = {"status": response.status_code, "charged_atomic": response.charged, "payment": digest}
    text = f"HTTP {response.status_code}, cost {_usdc(response.charged)} USDC"
    print(
        json.dumps(result) if options.as_json else text + (f", payment {digest}" if digest else ""),
        file=sys.stderr,
    )
    return OK if response.status_code < 400 else FAILED


def _data(text: str | None) -> bytes | None:
    """The body: the text itself, or with @ the file it names, - being stdin."""
    if text is None or not text.startswith("@"):
        return None if text is None else text.encode()
    return sys.stdin.buffer.read() if text == "@-" else Path(text[1:]).read_bytes()


# ---- receipts


def _receipts(options: argparse.Namespace) -> int:
    config = _config(options)
    path = state_path(_state_dir(options), config.key.pubkey, config.network, "receipts.jsonl")
    return _verify(options, path) if options.action == "verify" else _list(options, path)


def _list(options: argparse.Namespace, path: Path) -> int:
    for line in ReceiptFile(path).lines():
        try:
            kept = KeptReceipt.from_line(line)
        except MalformedError:
            continue
        receipt = kept.signed.receipt
        _say(
            options,
            kept.to_json(),
            f"{receipt.digest.hex()}  {kept.gateway}  {receipt.http_status}  {_usdc(receipt.charged)}",
        )
    return OK


def _verify(options: argparse.Namespace, path: Path) -> int:
    valid = invalid = charged = 0
    for line in ReceiptFile(path).lines():
        try:
            kept = KeptReceipt.from_line(line)
        except MalformedError:
            invalid += 1
            continue
        valid += kept.is_valid
        invalid += not kept.is_valid
        charged += kept.signed.receipt.charged if kept.is_valid else 0
    _say(
        options,
        {"valid": valid, "invalid": invalid, "charged_atomic": charged},
        f"{valid} valid receipts over {_usdc(charged)} USDC, {invalid} invalid",
    )
    return FAILED if invalid else OK


# ---- run-e2e


def _run_e2e(options: argparse.Namespace) -> int:
    try:
        manifest = json.loads(Path(options.manifest).read_text())
        targets = [_target(entry) for entry in manifest["gateways"]]
        count = len(manifest["agents"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{options.manifest} cannot be used as a manifest: {error!r}") from error
    if not targets or not count:
        raise ConfigError(f"{options.manifest} names no gateways or no agents")
    configs = [MachPayConfig.from_demo(options.manifest, agent=number) for number in range(count)]
    summary = asyncio.run(_buy(options, configs, targets))
    text = "\n".join(f"{name}: {value}" for name, value in summary.items())
    _say(options, summary, text)
    return FAILED if summary["mismatches"] or not summary["paid"] else OK


def _target(entry: dict[str, Any]) -> Target:
    url = urljoin(str(entry["url"]), str(entry["paid_path"]))

    def same(_rng: random.Random) -> str:
        return url

    return Target(entry["gateway"], entry["method"], int(entry["price_atomic"]), same)


async def _buy(
    options: argparse.Namespace, configs: Sequence[MachPayConfig], targets: Sequence[Target]
) -> dict[str, Any]:
    tally, stop = Tally(), asyncio.Event()
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
    if options.duration is not None:
        loop.call_later(options.duration, stop.set)
    buying = asyncio.create_task(
        buy_until(stop, configs, targets, tally, rate=options.rate, in_flight=options.in_flight)
    )
    while not buying.done():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(buying), LIVE_LINE_S)
        _live_line(options, tally)
    await buying
    if not options.as_json:
        print(file=sys.stderr)
    return tally.summary()


def _live_line(options: argparse.Namespace, tally: Tally) -> None:
    report = tally.report()
    if options.as_json:
        print(json.dumps(report), file=sys.stderr, flush=True)
        return
    charged, failed = sum(report["charged_atomic"].values()), sum(report["failures"].values())
    line = (
        f"{report['paid']} paid, {report['calls_per_s']}/s, p50 {report['p50_ms']} ms, {_usdc(charged)} USDC"
    )
    print(f"\r{line}, {failed} failed   ", end="", file=sys.stderr, flush=True)


# ---- arguments


def _usdc(atomic: int) -> str:
    return f"{atomic // USDC}.{atomic % USDC:06d}"


def _amount(text: str) -> int:
    """USDC with at most six places, as atomic units."""
    try:
        atomic = Decimal(text) * USDC
    except InvalidOperation as error:
        raise argparse.ArgumentTypeError("an amount is a decimal number of USDC") from error
    if not atomic.is_finite() or atomic <= 0 or atomic != int(atomic):
        raise argparse.ArgumentTypeError("an amount is positive, with at most six decimal places")
    return int(atomic)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError("a header is 'Name: value'")
    return name.strip(), value.strip()


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("must be a positive number")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="machpay",
        description="Pay HTTP APIs per request from one USDC bond.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(
        group: Any, name: str, text: str, run: Any, *, flag: bool = True, own: bool = True
    ) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = group.add_parser(
            name,
            help=text,
            description=text,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        if flag:
            # The default must not undo the flag given before the command's name.
            command.add_argument(
                "--json", dest="as_json", action="store_true", default=argparse.SUPPRESS, help="print JSON"
            )
        if not own:
            return command
        command.add_argument("--key", help=f"key file (MACHPAY_AGENT_SECRET, or {DEFAULT_KEY})")
        command.add_argument("--network", help="the network's JSON description (MACHPAY_NETWORK)")
        command.add_argument("--state-dir", help="totals and receipts (MACHPAY_STATE_DIR, or ~/.machpay)")
        return command

    agent = commands.add_parser("agent", help="the agent's key and bond").add_subparsers(
        dest="action", required=True
    )
    add(agent, "init", "make a key file, readable by its owner only; never overwrites one", _agent_init)
    add(agent, "balance", "the bond on chain", _agent_balance)
    deposit = add(agent, "deposit", "move USDC from the agent's wallet to its bond", _agent_deposit)
    deposit.add_argument("amount_atomic", metavar="AMOUNT_USDC", type=_amount)
    withdraw = add(
        agent, "withdraw", "request a withdrawal; the same again after the timelock pays it", _agent_withdraw
    )
    withdraw.add_argument("amount_atomic", metavar="AMOUNT_USDC", type=_amount, nargs="?")
    withdraw.add_argument("--cancel", action="store_true", help="take the pending withdrawal back")

    call = add(
        commands, "call", "call a URL and pay for it: body to stdout, cost to stderr", _call, flag=False
    )
    call.add_argument("url")
    call.add_argument("-X", "--request", dest="method", help="GET, or POST with a body")
    call.add_argument("-H", "--header", type=_header, action="append", default=[], help="'Name: value'")
    body = call.add_mutually_exclusive_group()
    body.add_argument("-d", "--data", help="the body; @file reads a file, @- stdin")
    body.add_argument(
        "--json",
        dest="json_data",
        metavar="DATA",
        help="a JSON body, like -d (for JSON output: machpay --json call ...)",
    )
    call.add_argument("--max-price", dest="max_price_atomic", metavar="USDC", type=_amount)
    call.add_argument("--retries", type=int, default=0, help="repeat what surely charged nothing")

    receipts = add(
        commands, "receipts", "receipts of this agent: list them, or check every signature", _receipts
    )
    receipts.add_argument("action", choices=("list", "verify"), nargs="?", default="list")

    e2e = add(
        commands,
        "run-e2e",
        "keep paying the gateways of a manifest and check that it adds up",
        _run_e2e,
        own=False,
    )
    e2e.add_argument("--manifest", default="var/demo.json", help="default: var/demo.json")
    e2e.add_argument("--rate", type=_positive, default=10.0, help="calls a second, all agents (default: 10)")
    e2e.add_argument("--in-flight", type=_count, default=4, help="callers per agent (default: 4)")
    e2e.add_argument("--duration", type=_positive, help="seconds; without it until Ctrl-C")
    return parser


if __name__ == "__main__":
    sys.exit(main())
