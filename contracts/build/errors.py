"""What can go wrong while building.

BuildError
├── CommandFailedError   a tool we called failed; its output is in the message
└── LinkError            the compiled object cannot become an on-chain program
"""

from collections.abc import Sequence


class BuildError(Exception):
    """Building stopped; the message says what to do."""


class CommandFailedError(BuildError):
    """A command exited with an error."""

    def __init__(self, command: Sequence[str], output: str) -> None:
        super().__init__(f"{command[0]} failed: {' '.join(command)}\n{output.strip()}")


class LinkError(BuildError):
    """An object that breaks a rule of on-chain programs, for example a mutable global or an unknown function."""
