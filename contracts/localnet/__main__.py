"""`python -m contracts.localnet`: the local chain from the command line."""

import argparse
import json
import logging
import sqlite3
import sys
from pathlib import Path

from solders.keypair import Keypair
from solders.pubkey import Pubkey

from contracts.localnet.ledger import Program
from contracts.localnet.server import Settings, StateInUseError, serve
from contracts.localnet.storage import TRANSACTIONS_KEPT

STANDARD_PORT = 8899


def main(argv: list[str]) -> int:
    """Parse the options and serve; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m contracts.localnet", description="A local Solana chain.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--port", type=int, default=STANDARD_PORT, help="0 takes a free one (default: 8899, with 8900)"
    )
    parser.add_argument("--ws-port", type=int, metavar="PORT", help="a second port, for WebSocket clients")
    parser.add_argument(
        "--state", type=Path, default=Path("var/localnet"), help="state folder (var/localnet)"
    )
    parser.add_argument("--program", type=Path, help="program to deploy at start (.so)")
    identity = parser.add_mutually_exclusive_group()
    identity.add_argument("--program-id", type=Pubkey.from_string, metavar="PUBKEY")
    identity.add_argument("--program-keypair", "--program-id-keypair", type=Path, metavar="FILE")
    parser.add_argument("--upgrade-authority", type=Pubkey.from_string, metavar="PUBKEY")
    parser.add_argument("--slot-ms", type=int, default=200)
    parser.add_argument("--finalized-lag", type=int, default=4, help="slots from processed to finalized")
    parser.add_argument(
        "--history", type=int, default=TRANSACTIONS_KEPT, help="transactions kept (200,000)", metavar="N"
    )
    parser.add_argument("--allow-faults", action="store_true", help="let tests move the clock, inject faults")
    options = parser.parse_args(argv)
    if options.history < 1:
        parser.error("--history must be at least 1")
    if options.ws_port is None and options.port == STANDARD_PORT:
        # Where Solana's clients look when they are told of the standard port only.
        options.ws_port = STANDARD_PORT + 1
    if options.slot_ms < 1 or options.finalized_lag < 1:
        parser.error("--slot-ms and --finalized-lag must be at least 1")

    program = None
    if options.program is not None:
        try:
            program_id = options.program_id
            if options.program_keypair is not None:
                program_id = _keypair(options.program_keypair).pubkey()
            elf = options.program.read_bytes()
        except (OSError, TypeError, ValueError) as error:
            parser.error(f"--program and its keypair: {error}")
        if program_id is None:
            parser.error("--program needs --program-id or --program-keypair")
        program = Program(program_id, elf, options.upgrade_authority)
    logging.basicConfig(level=logging.INFO, format="localnet: %(message)s", stream=sys.stderr)
    settings = Settings(
        host=options.host,
        port=options.port,
        state=options.state,
        slot_ms=options.slot_ms,
        finalized_lag=options.finalized_lag,
        transactions_kept=options.history,
        program=program,
        ws_port=options.ws_port,
        allow_faults=options.allow_faults,
    )
    try:
        serve(settings)
    except (StateInUseError, OSError) as error:
        print(f"localnet: {error}", file=sys.stderr)
        return 1
    except sqlite3.DatabaseError as error:
        print(f"localnet: the chain in {options.state} cannot be read: {error}", file=sys.stderr)
        return 1
    return 0


def _keypair(path: Path) -> Keypair:
    return Keypair.from_bytes(bytes(json.loads(path.read_text())))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
