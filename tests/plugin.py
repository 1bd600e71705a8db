"""Starts PostgreSQL and Valkey for one test session. Loaded with `-p tests.plugin`, before Django's settings.

Sets DATABASE_URL, REDIS_URL and MACHPAY_PROFILE in the environment; URLs that are already set are left as
they are. Each session has a folder of its own below var/test, so sessions run side by side; folders of killed
sessions are cleared by the next one. Under `pytest -n` every worker is a session: it starts servers of its own.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType

import pytest

from devnet.services import Services, ServicesError
from tests import schedule

ROOT = Path(__file__).resolve().parent.parent
STARTED = "MACHPAY_TEST_STARTED"
"""Names the variables that a session set itself: workers inherit them and must not take them for given ones."""


# A wrapper runs around every other plugin's hook: pytest-django reads the settings inside.
@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None]:
    """Start the services, put their URLs into the environment, have them stopped however the session ends."""
    os.environ.setdefault("MACHPAY_PROFILE", "demo")
    for inherited in os.environ.pop(STARTED, "").split():
        os.environ.pop(inherited, None)
    folder = ROOT / "var" / "test"
    folder.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(folder):
        _clear_killed_sessions(folder)
        session = Path(tempfile.mkdtemp(prefix="session-", dir=folder))
        # The servers' account has to pass; what it keeps there is closed to others by the services.
        session.chmod(0o755)
        services = Services(session, profile="test")
        early_config.add_cleanup(lambda: _clear(services))
        # For an end that skips pytest's own clean-up; clearing twice does nothing.
        atexit.register(_clear, services)
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, _interrupt)
        services.start()
    started = {name: url for name, url in services.environment.items() if name not in os.environ}
    os.environ.update(started)
    os.environ[STARTED] = " ".join(started)
    return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> schedule.Schedule:
    """Our order of work, with `--dist` or without."""
    return schedule.Schedule(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers of `pytest -n` start with the longest tests; a single process keeps the usual order."""
    if hasattr(config, "workerinput"):
        schedule.sort(items)


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep another session from clearing a folder between its creation and the start of its services."""
    with (folder / "starting.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _clear_killed_sessions(folder: Path) -> None:
    for session in folder.glob("session-*"):
        try:
            _clear(Services(session, environ={}))
        except ServicesError:
            # Its session still runs.
            continue


def _clear(services: Services) -> None:
    if services.erase():
        shutil.rmtree(services.data_dir, ignore_errors=True)
