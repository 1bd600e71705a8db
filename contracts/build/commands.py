"""Running other programs: output is kept and shown only when they fail."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from contracts.build.errors import BuildError, CommandFailedError


def run(command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run to the end and return standard output. `env` is added to the environment. Raises `CommandFailedError`."""
    try:
        result = subprocess.run(
            list(command),
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is not installed") from error
    if result.returncode != 0:
        raise CommandFailedError(command, result.stdout + result.stderr)
    return result.stdout


def say(line: str) -> None:
    """Progress for the person who waits."""
    print(line, flush=True)
