"""The command line: which commands there are, and what they take."""

import argparse
from typing import Any

from machpay import __version__
from machpay.cli import agent as agent_commands
from machpay.cli import call as call_command
from machpay.cli import complain as complain_command
from machpay.cli import e2e as e2e_command
from machpay.cli import receipts as receipts_command
from machpay.cli.codes import EXIT_CODES
from machpay.cli.options import DEFAULT_KEY, amount, count, digest, header, positive


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(
        prog="machpay",
        description="Pay HTTP APIs per request from one USDC bond.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=__version__)
    top.add_argument("--json", dest="as_json", action="store_true", help="print JSON")
    commands = top.add_subparsers(dest="command", required=True)

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
    add(
        agent,
        "init",
        "make a key file, readable by its owner only; never overwrites one",
        agent_commands.init,
    )
    add(agent, "balance", "the bond on chain", agent_commands.balance)
    deposit = add(agent, "deposit", "move USDC from the agent's wallet to its bond", agent_commands.deposit)
    deposit.add_argument("amount_atomic", metavar="AMOUNT_USDC", type=amount)
    withdraw = add(
        agent,
        "withdraw",
        "request a withdrawal; the same again after the timelock pays it",
        agent_commands.withdraw,
    )
    withdraw.add_argument("amount_atomic", metavar="AMOUNT_USDC", type=amount, nargs="?")
    withdraw.add_argument("--cancel", action="store_true", help="take the pending withdrawal back")

    call = add(
        commands,
        "call",
        "call a URL and pay for it: body to stdout, cost to stderr",
        call_command.run,
        flag=False,
    )
    call.add_argument("url")
    call.add_argument("-X", "--request", dest="method", help="GET, or POST with a body")
    call.add_argument("-H", "--header", type=header, action="append", default=[], help="'Name: value'")
    body = call.add_mutually_exclusive_group()
    body.add_argument("-d", "--data", help="the body; @file reads a file, @- stdin")
    body.add_argument(
        "--json",
        dest="json_data",
        metavar="DATA",
        help="a JSON body, like -d (for JSON output: machpay --json call ...)",
    )
    call.add_argument("--max-price", dest="max_price_atomic", metavar="USDC", type=amount)
    call.add_argument(
        "--retries", type=int, default=0, help="repeat what surely charged nothing, or is charged once"
    )
    call.add_argument(
        "--payment-id",
        help="16-128 letters, digits, - or _: the same again gets the same answer, charged once",
    )

    receipts = add(
        commands,
        "receipts",
        "receipts of this agent: list them, check every signature, or prove that they are anchored on chain",
        receipts_command.run,
    )
    receipts.add_argument("action", choices=("list", "verify", "prove"), nargs="?", default="list")

    complain = add(
        commands,
        "complain",
        "payments that were not served; with one of them: tell the network that its gateway denies service",
        complain_command.run,
    )
    complain.add_argument(
        "payment", nargs="?", type=digest, help="the payment's digest; without it they are listed"
    )
    complain.add_argument("--detail", default="", help="what happened, in your own words")

    e2e = add(
        commands,
        "run-e2e",
        "keep paying the gateways of a manifest and check that it adds up",
        e2e_command.run,
        own=False,
    )
    e2e.add_argument("--manifest", default="var/demo.json", help="default: var/demo.json")
    e2e.add_argument("--rate", type=positive, default=10.0, help="calls a second, all agents (default: 10)")
    e2e.add_argument("--in-flight", type=count, default=4, help="callers per agent (default: 4)")
    e2e.add_argument("--duration", type=positive, help="seconds; without it until Ctrl-C")
    return top
