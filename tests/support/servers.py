"""Our own ASGI processes under a real uvicorn, on the test session's database and Redis."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings
from django.db import connection

from devnet.processes import ManagedProcess
from devnet.services.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Server:
    """A running process and where it answers."""

    url: str
    process: ManagedProcess


def session_database_url() -> str:
    """The URL of the database that pytest-django created: it does so for tests marked `django_db` only."""
    parts = urlsplit(settings.DATABASE_URL)
    return urlunsplit(parts._replace(path="/" + str(connection.settings_dict["NAME"])))


@contextlib.contextmanager
def uvicorn(app: str, log_dir: Path, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run `app` on a free port until the block ends; enters once it accepts connections."""
    port = free_port()
    name = app.partition(":")[0]
    command = [
        *(sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port)),
        *("--no-access-log", "--timeout-graceful-shutdown", "1"),
    ]
    env = {
        **os.environ,
        "DATABASE_URL": session_database_url(),
        "PYTHONPATH": str(ROOT),
        **(environment or {}),
    }
    url = f"http://127.0.0.1:{port}"
    process = ManagedProcess(name, command, env=env, log_dir=log_dir, health_url=f"{url}/metrics", cwd=ROOT)
    process.start()
    try:
        process.wait_healthy()
        yield Server(url, process)
    finally:
        process.stop()
