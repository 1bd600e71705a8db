"""What options of commands may be. A type that raises is told to whoever typed it, with the option's name."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from typing import Final

CENTURY_DAYS: Final = 36_500


def number(least: float, most: float) -> Callable[[str], float]:
    """A number within bounds; never NaN or infinite."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise ArgumentTypeError(f"{text} is no number between {least:g} and {most:g}")
        return value

    return parse


def words(most: int) -> Callable[[str], str]:
    """Some text that a column of `most` characters can hold."""

    def parse(text: str) -> str:
        stripped = text.strip()
        if not stripped or len(stripped) > most or not stripped.isprintable():
            raise ArgumentTypeError(f"give 1 to {most} printable characters")
        return stripped

    return parse
