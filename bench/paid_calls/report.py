"""Medians and tables, in the form of docs/performance.md."""

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence

_CLEAR = "\r\x1b[K"


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """`median (lowest to highest)`."""
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table."""
    say("")
    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    sys.stdout.flush()


def say(text: str) -> None:
    """Show what is going on, on a terminal in place and elsewhere line by line."""
    if sys.stderr.isatty():
        sys.stderr.write(_CLEAR + text)
    elif text:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


def progress(what: str, total: int) -> Callable[[int], None]:
    """A counter for `say`; silent where there is no terminal."""

    def show(count: int) -> None:
        if sys.stderr.isatty():
            say(f"{what}: {count:,} of {total:,}")

    return show
