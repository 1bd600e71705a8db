"""The command line: `python -m contracts.build program | verify`."""

import argparse
import sys

from contracts.build.errors import BuildError
from contracts.build.program import build_artifact, verify_artifact

COMMANDS = {"program": build_artifact, "verify": verify_artifact}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m contracts.build", description="Build the Solana program."
    )
    parser.add_argument(
        "command",
        choices=sorted(COMMANDS),
        help="program: build the artifact; verify: rebuild and compare bytes",
    )
    try:
        COMMANDS[parser.parse_args().command]()
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
