"""`python -m devnet.services`: the embedded servers from the command line.

run -- CMD...   start, run CMD with DATABASE_URL and REDIS_URL set, stop; exits with CMD's code
up | down       start and leave running | stop
status          print what runs, as JSON
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from types import FrameType

from devnet.services.errors import ServicesError
from devnet.services.manager import Services


def main(argv: list[str]) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m devnet.services", description="Embedded PostgreSQL and Valkey."
    )
    parser.add_argument("--data", default="var", help="data folder (default: var)")
    parser.add_argument("--profile", choices=["demo", "test"], default="demo")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="start, run a command with the URLs set, stop")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- CMD...")
    commands.add_parser("up", help="start and leave running")
    commands.add_parser("down", help="stop")
    commands.add_parser("status", help="print what runs")
    arguments = parser.parse_args(argv)

    services = Services(arguments.data, profile=arguments.profile)
    try:
        if arguments.command == "run":
            command = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
            if not command:
                parser.error("run needs a command")
            return _run(services, command)
        if arguments.command == "up":
            services.start()
            urls = services.environment
            services.up()
            print("\n".join(f"{name}={value}" for name, value in urls.items()))
        elif arguments.command == "down":
            services.down()
        else:
            print(json.dumps(services.status(), indent=1))
    except ServicesError as error:
        print(f"services: {error}", file=sys.stderr)
        return 1
    return 0


def _run(services: Services, command: list[str]) -> int:
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, frame: FrameType | None) -> None:
        if child is None:
            raise SystemExit(128 + number)
        # A Ctrl-C at the terminal reached the child already; twice means "now" to many programs.
        if not (number == signal.SIGINT and _in_foreground()) and child.poll() is None:
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    with services:
        try:
            child = subprocess.Popen(command, env=os.environ | services.environment)
        except OSError as error:
            print(f"services: {error}", file=sys.stderr)
            return 127
        code = child.wait()
    return 128 - code if code < 0 else code


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
