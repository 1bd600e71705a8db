"""Runs recon's services in a process that is killed with SIGKILL at one point of its work.

What others can see changes at two kinds of moments only: when a database transaction commits (a statement outside of
one is its own), and when the chain is called. Those are the points, before and after each; killing anywhere between
two of them leaves what killing at either leaves. They are counted by wrapping Django's connection and
`ChainSession.run` inside the forked child, so the code that runs is the code that ships.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.db import connection, connections

from apps.core.errors import DomainError
from apps.settlement.chain import ChainSession, close_connections, connect
from machpay.chain.errors import ChainError

# The parent's database connections: kept in the child, or closing them would end the parent's sessions.
_INHERITED: list[Any] = []


class Points:
    """Counts points and dies at the wanted one, which is a number or a name."""

    def __init__(self, die_at: int | str, told: int) -> None:
        self.count = 0
        self._die_at = die_at
        self._told = told

    @contextlib.contextmanager
    def around(self, name: str) -> Iterator[None]:
        self._reach(f"before {name}")
        yield
        self._reach(f"after {name}")

    def _reach(self, name: str) -> None:
        self.count += 1
        if self._die_at in (self.count, name):
            os.write(self._told, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)


def run_and_kill(services: Sequence[Callable[[ChainSession], object]], *, die_at: int | str) -> str | None:
    """Run `services` one after the other in a child that dies at point number `die_at`, or at the first point of that
    name; returns the point's name, None if the child reached its end first. A chain that refuses or is away ends one
    service, as in a task."""
    reader, told = os.pipe()
    # A socket that parent and child share would mix their answers up.
    close_connections()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)
            _work(services, Points(die_at, told))
            os._exit(0)
        except BaseException as error:
            os.write(told, f"!{type(error).__name__}: {error}".encode()[:500])
            os._exit(1)
    os.close(told)
    with os.fdopen(reader, "rb") as pipe:
        name = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert not name.startswith("!"), name
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return name
    assert os.WEXITSTATUS(status) == 0
    return None


def _work(services: Sequence[Callable[[ChainSession], object]], points: Points) -> None:
    for alias in connections:
        _INHERITED.append(connections[alias].connection)
        connections[alias].connection = None
        connections[alias].in_atomic_block = False
        connections[alias].savepoint_ids = []
    connection.connect()
    commit: Callable[[], None] = getattr(connection, "_commit")  # noqa: B009
    call: Any = ChainSession.run

    def counted_commit() -> None:
        with points.around("commit"):
            commit()

    def counted_call(session: ChainSession, coroutine: Any) -> Any:
        with points.around(f"call {coroutine.__name__}"):
            return call(session, coroutine)

    def counted_statement(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        text = sql if isinstance(sql, str) else ""
        if connection.in_atomic_block or text.lstrip()[:6].upper() == "SELECT":
            return execute(sql, params, many, context)
        with points.around(f"statement {text.split()[0] if text.split() else '?'}"):
            return execute(sql, params, many, context)

    setattr(connection, "_commit", counted_commit)  # noqa: B010
    setattr(ChainSession, "run", counted_call)  # noqa: B010
    with connection.execute_wrapper(counted_statement):
        for service in services:
            with contextlib.suppress(ChainError, DomainError), connect() as session:
                service(session)
