"""Node and npm packages for tests with stock JavaScript clients.

The packages are those of a package-lock.json, in a folder of their own below var/: installed once, used until the lock
file changes. On Debian as root a missing Node is installed too.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NPM = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")


class InstallError(Exception):
    """Node or the packages cannot be had; the message says what to do."""


def packages(source: Path, name: str) -> Path:
    """The folder var/`name`/... with node_modules of `source`'s lock file, after installing what is missing."""
    digest = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()[:16]
    folder = ROOT / "var" / name / digest
    folder.mkdir(parents=True, exist_ok=True)
    # Test processes run side by side; the first installs, the others wait.
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            _ensure_node()
            for file in ("package.json", "package-lock.json"):
                shutil.copy(source / file, folder / file)
            _run(NPM, folder)
            (folder / "complete").touch()
    return folder


def ask(script: Path, request: dict[str, Any]) -> Any:
    """The JSON that `node script` prints, given `request` as JSON on its standard input."""
    finished = subprocess.run(
        ["node", script.name],
        cwd=script.parent,
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def _ensure_node() -> None:
    if shutil.which("node") and shutil.which("npm"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise InstallError("tests with JavaScript clients need Node 20 with npm: apt-get install nodejs npm")
    print("Installing Node for tests with JavaScript clients ...", flush=True)
    _run(("apt-get", "update", "-qq"), ROOT)
    _run(("apt-get", "install", "-y", "-qq", "--no-install-recommends", "nodejs", "npm"), ROOT)


def _run(command: tuple[str, ...], folder: Path) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    finished = subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if finished.returncode:
        raise InstallError(f"{' '.join(command)} failed:\n{finished.stdout[-2000:]}")
