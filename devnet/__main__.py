"""`make demo`: the whole network, live, until Ctrl-C; with `--once`, until it has proved itself."""

import argparse
import math
import signal
import sys
from pathlib import Path
from types import FrameType

import psycopg

from devnet.demo import Demo, DemoFailed, Settings
from devnet.network import DEFAULT_PORTS, ROOT, Options, StartFailed
from devnet.processes import ProcessFailed
from devnet.services import ServicesError


def number(text: str) -> float:
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} must be positive")
    return value


def port(text: str) -> int:
    if not 0 < (value := int(text)) < 65_536:
        raise argparse.ArgumentTypeError(f"{text} must be from 1 to 65535")
    return value


def _parse(argv: list[str]) -> tuple[Options, Settings]:
    parser = argparse.ArgumentParser(
        prog="make demo ARGS=...",
        description="Run MachPay here: chain, relayer, receiver, recon, console, two gateways, paying agents.",
    )
    parser.add_argument(
        "--once", action="store_true", help="exit after 200 paid calls and a settlement that adds up"
    )
    parser.add_argument("--data", type=Path, default=ROOT / "var", help="data folder (default: var)")
    parser.add_argument("--rate", type=number, default=40.0, help="paid calls a second (default: 40)")
    parser.add_argument("--agents", type=int, default=4, help="paying agents (default: 4)")
    parser.add_argument(
        "--settle-interval", type=number, default=3.0, help="seconds between settlements (default: 3)"
    )
    for name, default in DEFAULT_PORTS.items():
        parser.add_argument(f"--{name}-port", type=port, help=f"fixed port (default: {default} if free)")
    arguments = parser.parse_args(argv)
    if arguments.agents < 1:
        parser.error("--agents must be positive")
    fixed = {name: getattr(arguments, f"{name.replace('-', '_')}_port") for name in DEFAULT_PORTS}
    options = Options(
        data_dir=arguments.data,
        agents=arguments.agents,
        settle_interval_s=arguments.settle_interval,
        fixed_ports={name: port for name, port in fixed.items() if port},
    )
    return options, Settings(once=arguments.once, rate=arguments.rate)


class _Stopped(BaseException):
    """SIGTERM or Ctrl-C arrived; not an error, and not to be caught by anything but `main`."""


def _raise_stopped(_number: int, _frame: FrameType | None) -> None:
    raise _Stopped


def main(argv: list[str]) -> int:
    """Returns 0 after a clean stop or a passed `--once`, 1 when something failed, 2 for wrong arguments."""
    options, settings = _parse(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _raise_stopped)
    demo: Demo | None = None
    code = 0
    try:
        demo = Demo(options, settings)
        demo.start()
        demo.run()
    except _Stopped:
        code = 130 if settings.once else 0
    except (DemoFailed, StartFailed, ProcessFailed, ServicesError, psycopg.OperationalError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        code = 1
    finally:
        # A second Ctrl-C while stopping must not leave processes behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if demo is not None:
            demo.stop()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
