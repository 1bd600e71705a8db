"""`Services`: both servers over one data folder, with one owner at a time.

The folder holds `services.json` (which home and ports), `services.lock` (held by the running owner) and the
logs. The home (see `unprivileged.home_for`) holds the servers' own folders and the password, so that data and
password live and go together.
"""

import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from devnet.services import process
from devnet.services.errors import ServicesError
from devnet.services.postgres import Postgres
from devnet.services.unprivileged import create_home, home_for, server_account, shared_homes
from devnet.services.valkey import Valkey

Profile = Literal["demo", "test"]


class Services:
    """PostgreSQL and Valkey on free loopback ports, data under `data_dir`.

    `profile="demo"` keeps every commit through a power cut; `"test"` is faster and keeps them only through
    the kill of a process. A server whose URL is in `environ` (`DATABASE_URL`, `REDIS_URL`) is used as it is
    and never started or stopped. Raises `ServicesError`.
    """

    def __init__(
        self,
        data_dir: str | Path = "var",
        *,
        profile: Profile = "demo",
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.data_dir = Path(data_dir).resolve()
        self._profile = profile
        self._given = {
            name: environ[variable] for name, variable in _VARIABLES.items() if environ.get(variable)
        }
        self._account = server_account()
        self._servers: dict[str, Postgres | Valkey] = {}
        self._lock: int | None = None
        self._owner_pid: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def database_url(self) -> str:
        """`postgresql://...` of the database `machpay` (or the given `DATABASE_URL`)."""
        return self._url("postgres")

    @property
    def redis_url(self) -> str:
        """`redis://...` of database 0 (or the given `REDIS_URL`)."""
        return self._url("valkey")

    @property
    def environment(self) -> dict[str, str]:
        """`DATABASE_URL` and `REDIS_URL`, to add to the environment of a process."""
        return {"DATABASE_URL": self.database_url, "REDIS_URL": self.redis_url}

    def start(self) -> None:
        """Start what does not run and wait until it can be used.

        May be called again at any time: a server that died is started again on its data, on its port if that
        is still free. Servers that a killed owner left behind are stopped first; those of `up` are used, and
        left running by `stop()`.
        """
        if len(self._given) == len(_VARIABLES):
            return
        first = self._lock is None
        if first:
            self._acquire()
        try:
            self._start_servers(adopt=not first)
        except BaseException:
            if first:
                self.stop()
            raise

    def stop(self) -> None:
        """Stop what `start()` started. Does nothing in a forked child of the owner, or when nothing runs."""
        if self._lock is None or self._owner_pid != os.getpid():
            return
        try:
            if not self._state().get("detached"):
                self._stop_all(self._home())
        finally:
            self._release()

    def up(self) -> None:
        """Start the servers and leave them running after this process; `down()` stops them."""
        self.start()
        self._write_state(detached=True)
        self._release()

    def down(self) -> None:
        """Stop the servers of an earlier `up()`, or what a killed owner left behind."""
        self._acquire()
        try:
            self._stop_all(self._home())
            if self._state():
                self._write_state(detached=False)
        finally:
            self._release()

    def status(self) -> dict[str, dict[str, Any]]:
        """Return per server `{running, pid, port}`, or `{external: True}` when its URL was given.

        Needs no ownership: any process may ask.
        """
        state = self._state()
        servers = self._servers or self._build(self._home())
        report: dict[str, dict[str, Any]] = {name: {"external": True} for name in self._given}
        for name, server in servers.items():
            pid = server.pid()
            port = state.get("ports", {}).get(name)
            report[name] = {"running": pid is not None, "pid": pid, "port": port}
        return report

    def erase(self) -> bool:
        """Stop whatever runs on this data and delete it; the next start begins empty.

        Returns False, and does nothing, when the data folder is gone and in a forked child of the owner.
        """
        if self._owner_pid not in (None, os.getpid()) or not self.data_dir.exists():
            return False
        if self._lock is None:
            self._acquire()
        try:
            self._stop_all(self._home())
            shutil.rmtree(self._home(), ignore_errors=True)
            (self.data_dir / "services.json").unlink(missing_ok=True)
        finally:
            self._release()
        return True

    def _url(self, name: str) -> str:
        if name in self._given:
            return self._given[name]
        server = self._servers.get(name)
        if server is None or server.port is None:
            raise ServicesError("the services are not started")
        return server.url()

    def _start_servers(self, *, adopt: bool) -> None:
        home = self._home()
        state = self._state()
        if state.get("home") != str(home) and home.parent != self.data_dir:
            # The data folder was deleted or never was; what a home outside it still holds belongs to nobody.
            self._stop_all(home)
            shutil.rmtree(home, ignore_errors=True)
        # Named in the state before it exists: a home that no state names is abandoned.
        self._write_state()
        if home.parent != self.data_dir:
            self._clear_abandoned()
        create_home(home, self.data_dir)
        if not self._servers:
            self._servers = self._build(home, password=self._password(home))
        detached = bool(state.get("detached")) and any(server.pid() for server in self._servers.values())
        self._write_state(detached=detached)
        for name, server in self._servers.items():
            server.port = server.port or state.get("ports", {}).get(name)
            if (adopt or detached) and server.port and server.pid() is not None and server.ready():
                continue
            server.start(server.port)
            self._write_state()

    def _clear_abandoned(self) -> None:
        """Remove the homes whose data folder was deleted, as a fresh clone or a finished test leaves them."""
        for home, data_dir in shared_homes():
            if _read_state(data_dir).get("home") != str(home):
                self._stop_all(home)
                shutil.rmtree(home, ignore_errors=True)

    def _stop_all(self, home: Path) -> None:
        # The reverse of the start.
        for server in reversed(list(self._build(home).values())):
            server.stop()
        process.reap()

    def _home(self) -> Path:
        return home_for(self.data_dir, self._account)

    def _build(self, home: Path, *, password: str = "") -> dict[str, Postgres | Valkey]:
        arguments: dict[str, Any] = {
            "home": home,
            "account": self._account,
            "password": password,
            "profile": self._profile,
        }
        kinds: tuple[type[Postgres] | type[Valkey], ...] = (Postgres, Valkey)
        return {
            kind.name: kind(log=self.data_dir / f"{kind.name}.log", **arguments)
            for kind in kinds
            if kind.name not in self._given
        }

    def _password(self, home: Path) -> str:
        path = home / "password"
        if path.exists():
            return path.read_text()
        if (home / "postgres").exists():
            raise ServicesError(f"{home} has data but no password file: restore {path} or remove the folder")
        password = secrets.token_urlsafe(24)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(password)
        return password

    def _state(self) -> dict[str, Any]:
        return _read_state(self.data_dir)

    def _write_state(self, *, detached: bool | None = None) -> None:
        state = self._state()
        state["home"] = str(self._home())
        state["ports"] = state.get("ports", {}) | {n: s.port for n, s in self._servers.items() if s.port}
        if detached is not None:
            state["detached"] = detached
        partial = self.data_dir / "services.json.new"
        partial.write_text(json.dumps(state, indent=1))
        partial.replace(self.data_dir / "services.json")

    def _acquire(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.data_dir / "services.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ServicesError(f"{self.data_dir} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 32, 0).decode().strip()
            os.close(lock)
            raise ServicesError(f"the services of {self.data_dir} are in use by process {owner}") from None
        os.truncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        self._lock = lock
        self._owner_pid = os.getpid()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
        self._lock = self._owner_pid = None
        self._servers = {}


def _read_state(data_dir: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((data_dir / "services.json").read_text())
    except (OSError, ValueError):
        return {}
    return state


_VARIABLES = {"postgres": "DATABASE_URL", "valkey": "REDIS_URL"}
