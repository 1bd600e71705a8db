"""The session plugin: sessions side by side, Ctrl-C, SIGTERM and kill leave nothing running."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "REDIS_URL")}

CASE = """
import os, sys, psycopg, redis

def test_waits():
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        backend = connection.info.backend_pid
        assert connection.execute("SELECT current_database()").fetchone() == ("machpay",)
    assert redis.Redis.from_url(os.environ["REDIS_URL"]).ping() is True
    with open(os.environ["SIGNAL"], "w") as pipe:
        pipe.write(os.environ["DATABASE_URL"])
    with open(os.environ["HOLD"]) as pipe:
        pipe.read()
"""


def _notice_interrupts() -> None:
    """A shell's background job ignores SIGINT and so would everything it starts; a person's Ctrl-C is not ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Session:
    """A pytest session in a process of its own, held inside its one test until `finish()`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "test_case.py").write_text(CASE)
        (folder / "pytest.ini").write_text("[pytest]\n")
        self.hold = folder / "hold"
        started = folder / "started"
        os.mkfifo(self.hold)
        os.mkfifo(started)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pytest", "-q", "-s", "-c", str(folder / "pytest.ini")),
                *("-p", "tests.plugin", "-p", "no:django", "-p", "no:cacheprovider", str(folder)),
            ],
            cwd=ROOT,
            env=CLEAN | {"SIGNAL": str(started), "HOLD": str(self.hold)},
            stdout=subprocess.DEVNULL,
            preexec_fn=_notice_interrupts,  # noqa: PLW1509  (the tests start no threads before this)
        )
        self.database_url = started.read_text()

    def finish(self) -> int:
        self.hold.write_text("go")
        return self.process.wait()

    def database_is_gone(self) -> bool:
        try:
            psycopg.connect(self.database_url).close()
        except psycopg.OperationalError:
            return True
        return False


def test_two_sessions_in_one_checkout_have_databases_of_their_own(tmp_path: Path) -> None:
    one, two = Session(tmp_path / "one"), Session(tmp_path / "two")
    assert one.database_url != two.database_url
    assert one.finish() == 0
    assert one.database_is_gone()
    assert not two.database_is_gone()
    assert two.finish() == 0
    assert two.database_is_gone()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_session_stops_its_servers(tmp_path: Path, number: signal.Signals) -> None:
    session = Session(tmp_path / "session")
    session.process.send_signal(number)
    assert session.process.wait() == 2
    assert session.database_is_gone()


def test_the_servers_of_a_killed_session_are_stopped_by_the_next(tmp_path: Path) -> None:
    killed = Session(tmp_path / "killed")
    killed.process.kill()
    killed.process.wait()
    assert not killed.database_is_gone()
    after = Session(tmp_path / "after")
    assert killed.database_is_gone()
    assert after.finish() == 0
