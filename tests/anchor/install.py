"""Makes sure that the Anchor test has Node and a stock Anchor client: `python -m tests.anchor.install`.

Called by `make test` and by the test itself. The packages are those of package-lock.json, in a folder of their own
below var/: installed once, used until the lock file changes. On Debian as root a missing Node is installed too.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LOCK = HERE / "package-lock.json"
NPM = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")


class InstallError(Exception):
    """Node or the packages cannot be had; the message says what to do."""


def client_folder() -> Path:
    """The folder with node_modules, after installing what is missing."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    folder = ROOT / "var" / "anchor-client" / digest
    if not (folder / "complete").exists():
        _ensure_node()
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, folder / name)
        _run(NPM, folder)
        (folder / "complete").touch()
    return folder


def _ensure_node() -> None:
    if shutil.which("node") and shutil.which("npm"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise InstallError("the Anchor test needs Node 18 or newer with npm: apt-get install nodejs npm")
    print("Installing Node for the Anchor test ...", flush=True)
    _run(("apt-get", "update", "-qq"), ROOT)
    _run(("apt-get", "install", "-y", "-qq", "--no-install-recommends", "nodejs", "npm"), ROOT)


def _run(command: tuple[str, ...], folder: Path) -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    finished = subprocess.run(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if finished.returncode:
        raise InstallError(f"{' '.join(command)} failed:\n{finished.stdout[-2000:]}")


if __name__ == "__main__":
    try:
        client_folder()
    except InstallError as error:
        sys.exit(str(error))
