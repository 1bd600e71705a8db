"""`gateway/install.sh` for real: an environment of its own from this tree, a unit whose every word is true, and a way
back that leaves money alone."""

import ctypes
import getpass
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

from machpay.protocol.keys import SigningKey
from machpay_gateway import __version__
from tests.gateway.test_init import description

SCRIPT = Path(__file__).resolve().parents[2] / "gateway" / "install.sh"
VENDOR = SigningKey(b"v" * 32)

pytestmark = pytest.mark.timeout(300)


def run(*arguments: object, home: Path, path: str = "") -> "subprocess.CompletedProcess[str]":
    """The script, as somebody whose home is `home`. Packages come from uv's cache where it has them, else the index."""
    environment = {
        "HOME": str(home),
        "PATH": f"{path}{Path(sys.executable).parent}:{os.environ['PATH']}",
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")),
    }
    command = ["sh", str(SCRIPT), *map(str, arguments)]

    def once(extra: dict[str, str]) -> "subprocess.CompletedProcess[str]":
        # With the umask of a machine whose root is careful.
        return subprocess.run(
            command,
            env=environment | extra,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
            umask=0o077,
        )

    ran = once({"UV_OFFLINE": "1"})
    return once({}) if ran.returncode == 1 and "cache" in ran.stderr else ran


@dataclass(frozen=True)
class Installed:
    """Where everything went."""

    root: Path

    @property
    def flags(self) -> list[object]:
        places = ["prefix", "bin-dir", "config-dir", "data-dir", "unit-dir"]
        flags: list[object] = [part for place in places for part in (f"--{place}", self.root / place)]
        return [*flags, "--user", getpass.getuser()] if os.geteuid() == 0 else flags

    @property
    def command(self) -> Path:
        return self.root / "bin-dir" / "machpay-gateway"

    @property
    def config(self) -> Path:
        return self.root / "config-dir" / "gateway.toml"

    @property
    def unit(self) -> Path:
        return self.root / "unit-dir" / "machpay-gateway.service"

    def unit_values(self) -> dict[str, list[str]]:
        """Every `name=value` of the unit, in order."""
        values: dict[str, list[str]] = defaultdict(list)
        section = ""
        for line in self.unit.read_text().splitlines():
            if line.startswith("["):
                section = line.strip("[]")
                assert section in ("Unit", "Service", "Install")
            elif line and not line.startswith("#"):
                name, separator, value = line.partition("=")
                assert separator, line
                values[f"{section}.{name}"].append(value)
        return values

    def files(self) -> dict[str, bytes]:
        """What must outlive everything: configuration, key and log."""
        folders = (self.root / "config-dir", self.root / "data-dir")
        paths = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    place = Installed(tmp_path_factory.mktemp("install"))
    ran = run(*place.flags, home=place.root)
    assert ran.returncode == 0, ran.stderr
    assert f"installed machpay-gateway {__version__}" in ran.stdout
    assert f"init --config {place.config} --data-dir {place.root / 'data-dir'}" in ran.stdout
    return place


@pytest.fixture(scope="module")
def configured(installed: Installed) -> Installed:
    """After `init` by the installed command."""
    network = installed.root / "network.json"
    network.write_text(json.dumps(description()))
    subprocess.run(
        [
            *(installed.command, "init", "--no-input", "--offline", "--config", installed.config),
            *("--network", network, "--vendor", VENDOR.pubkey, "--upstream", "http://127.0.0.1:1"),
            *("--price", "/a=0.1", "--port", "0", "--data-dir", installed.root / "data-dir"),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return installed


def test_the_command_runs_in_an_environment_of_its_own(installed: Installed) -> None:
    said = subprocess.run(
        [installed.command, "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout == f"machpay-gateway {__version__}\n"
    python = installed.root / "prefix" / "venv" / "bin" / "python"
    code = (
        "import machpay, machpay_gateway, sys; print(machpay.__file__, machpay_gateway.__file__, sep='\\n')"
    )
    found = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    for file in found.stdout.split():
        assert Path(file).is_relative_to(installed.root / "prefix" / "venv")
    for folder in ("config-dir", "data-dir"):
        assert stat.S_IMODE((installed.root / folder).stat().st_mode) == 0o700


def test_the_services_user_may_run_what_a_careful_root_installs(installed: Installed) -> None:
    venv = installed.root / "prefix" / "venv"
    for path in (venv.parent, venv, venv / "bin", venv / "bin" / "machpay-gateway", *venv.glob("lib/*/*")):
        assert path.stat().st_mode & 0o044 == 0o044, path


def test_the_unit_names_what_is_there_and_gives_nothing_away(configured: Installed) -> None:
    values = configured.unit_values()
    (start,) = values["Service.ExecStart"]
    program, subcommand, flag, config = shlex.split(start)
    assert os.access(program, os.X_OK)
    assert Path(program).resolve() == configured.command.resolve()
    assert (subcommand, flag, config) == ("run", "--config", str(configured.config))
    assert Path(values["Service.WorkingDirectory"][0]).is_dir()
    assert values["Service.RestartPreventExitStatus"] == ["2"]
    assert (values["Service.Restart"], values["Service.KillSignal"]) == (["always"], ["SIGTERM"])
    assert values["Service.NoNewPrivileges"] == values["Service.MemoryDenyWriteExecute"] == ["yes"]
    assert values["Service.UMask"] == ["0077"]
    if os.geteuid() == 0:
        assert values["Service.User"] == [getpass.getuser()]
        assert values["Service.ReadWritePaths"] == [str(configured.root / "data-dir")]
        assert values["Service.ProtectSystem"] == ["strict"]
        assert values["Service.CapabilityBoundingSet"] == [""]
        assert values["Install.WantedBy"] == ["multi-user.target"]


def _deny_write_execute() -> None:
    """The unit's MemoryDenyWriteExecute, where the kernel can do it without systemd."""
    pr_set_mdwe, refuse_exec_gain = 65, 1
    ctypes.CDLL(None).prctl(pr_set_mdwe, refuse_exec_gain, 0, 0, 0)


def test_what_the_unit_starts_serves_and_stops_cleanly(configured: Installed) -> None:
    (start,) = configured.unit_values()["Service.ExecStart"]
    endpoint = configured.root / "data-dir" / "endpoint.json"
    with (configured.root / "output").open("wb") as output:
        process = subprocess.Popen(
            shlex.split(start),
            stdout=output,
            stderr=output,
            preexec_fn=_deny_write_execute,  # noqa: PLW1509  (a test of one thread)
        )
    try:
        deadline = time.monotonic() + 60
        while not endpoint.exists():
            assert process.poll() is None, (configured.root / "output").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert json.loads(endpoint.read_text())["pid"] == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_again_changes_nothing_that_matters_and_uninstall_keeps_the_money(configured: Installed) -> None:
    before, unit = configured.files(), configured.unit.read_bytes()
    assert any(name.endswith("gateway-key.json") for name in before)
    again = run(*configured.flags, home=configured.root)
    assert again.returncode == 0, again.stderr
    assert (configured.files(), configured.unit.read_bytes()) == (before, unit)

    removed = run(*configured.flags, "--uninstall", home=configured.root)
    assert removed.returncode == 0, removed.stderr
    assert not configured.unit.exists()
    assert not configured.command.is_symlink()
    assert not (configured.root / "prefix").exists()
    assert configured.files() == before

    (configured.root / "data-dir" / "worker-1" / "log").mkdir(parents=True)
    purged = run(*configured.flags, "--uninstall", "--purge", home=configured.root)
    assert purged.returncode == 0, purged.stderr
    assert not (configured.root / "config-dir").exists()
    assert not (configured.root / "data-dir").exists()


def test_without_root_everything_goes_below_the_home_folder(tmp_path: Path) -> None:
    as_somebody = ""
    if os.geteuid() == 0:
        (tmp_path / "tools").mkdir()
        fake = tmp_path / "tools" / "id"
        fake.write_text(f'#!/bin/sh\n[ "$1" = -u ] && echo 1000 || exec {shutil.which("id")} "$@"\n')
        fake.chmod(0o755)
        as_somebody = f"{fake.parent}:"
    home = tmp_path / "home"
    home.mkdir()
    ran = run(home=home, path=as_somebody)
    assert ran.returncode == 0, ran.stderr
    assert (
        (home / ".local" / "bin" / "machpay-gateway")
        .resolve()
        .is_relative_to(home / ".local" / "share" / "machpay-gateway")
    )
    unit = (home / ".config" / "systemd" / "user" / "machpay-gateway.service").read_text()
    assert "\nWantedBy=default.target\n" in unit
    assert "\nUser=" not in unit
    assert run("--uninstall", "--purge", home=home, path=as_somebody).returncode == 0
    assert [path for path in home.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--nonsense"], "--nonsense is no option"),
        (["--prefix"], "--prefix needs a value"),
        (["--purge"], "--purge goes with --uninstall"),
        (["--prefix", "/tmp/a b"], "in paths"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, flags: list[str], said: str) -> None:
    ran = run(*flags, home=tmp_path)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    theirs = Installed(tmp_path)
    (tmp_path / "prefix").mkdir()
    (tmp_path / "prefix" / "theirs").write_text("keep")
    ran = run(*theirs.flags, home=tmp_path)
    assert (ran.returncode, "was not made by this script" in ran.stderr) == (1, True)
    run(*theirs.flags, "--uninstall", home=tmp_path)
    assert [path.name for path in (tmp_path / "prefix").iterdir()] == ["theirs"]
