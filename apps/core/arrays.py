"""Columns of rows as PostgreSQL array literals, for statements that write many rows with `unnest`.

A parameter per column instead of one per value. psycopg's own arrays are written value by value in Python and cost more
than the statement; these are joined. Pass the text for a placeholder with its type: `%s::bigint[]`.
"""

from collections.abc import Iterable

_ESCAPED = str.maketrans({"\\": "\\\\", '"': '\\"'})


def integers(values: Iterable[int]) -> str:
    """For bigint[], smallint[], numeric[]. None is not an integer."""
    return "{" + ",".join(map(str, values)) + "}"


def texts(values: Iterable[str | None]) -> str:
    """For text[], timestamptz[], uuid[] and whatever else is written as text; None is NULL."""
    return "{" + ",".join(["NULL" if value is None else '"' + _quoted(value) + '"' for value in values]) + "}"


def _quoted(value: str) -> str:
    # Hardly any text holds either, and looking is ten times cheaper than replacing.
    return value.translate(_ESCAPED) if '"' in value or "\\" in value else value


def binaries(values: Iterable[bytes | memoryview | None]) -> str:
    """For bytea[]; None is NULL."""
    return (
        "{"
        + ",".join(['"\\\\x' + value.hex() + '"' if value is not None else "NULL" for value in values])
        + "}"
    )
