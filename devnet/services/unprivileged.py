"""Who the servers run as, and where they may live.

PostgreSQL refuses to run as root, so root starts the servers as `nobody`. `nobody` cannot enter a checkout or
a venv below /root; then the data goes to a folder under /var/tmp named after the data folder, and the
programs are copied there too. Nothing here runs with more rights than the caller has.
"""

import functools
import hashlib
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from devnet.services.errors import ServicesError

_OWNER_FILE = "data-folder"
# Survives a restart of the machine, unlike /tmp. Whatever is found there is checked for its owner before use.
SHARED_ROOT = Path("/var/tmp")  # noqa: S108


class PopenArguments(TypedDict, total=False):
    """The part of `subprocess.Popen` that drops root."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """The system account the servers run under; `switch` when that is not the caller's own."""

    uid: int
    gid: int
    switch: bool

    def popen_arguments(self) -> PopenArguments:
        """Return the keyword arguments that make a child run as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []} if self.switch else {}

    def can_enter(self, folder: Path) -> bool:
        """Whether this account may read `folder` and pass through everything above it, by the mode bits."""
        if not self.switch:
            return True
        folder = folder.resolve()
        if folder.exists() and not self._allowed(folder, stat.S_IROTH | stat.S_IXOTH):
            return False
        return all(self._allowed(parent, stat.S_IXOTH) for parent in folder.parents if parent.exists())

    def _allowed(self, folder: Path, bits: int) -> bool:
        status = folder.stat()
        if status.st_uid == self.uid:
            bits <<= 6
        elif status.st_gid == self.gid:
            bits <<= 3
        return status.st_mode & bits == bits

    def make_folder(self, folder: Path) -> Path:
        """Create a folder that only this account (and root) can enter."""
        folder.mkdir(mode=0o700, exist_ok=True)
        if self.switch:
            os.chown(folder, self.uid, self.gid)
        return folder

    def write_file(self, path: Path, text: str) -> Path:
        """Write a file that only this account (and root) can read."""
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            if self.switch:
                os.fchown(file.fileno(), self.uid, self.gid)
        return path


def server_account() -> Account:
    """Return the caller's own account, or `nobody` when the caller is root."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), switch=False)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise ServicesError("running as root needs an account called `nobody` for the servers") from None
    return Account(entry.pw_uid, entry.pw_gid, switch=True)


def home_for(data_dir: Path, account: Account) -> Path:
    """Return where the data lives: inside `data_dir`, or under /var/tmp when the account cannot go there."""
    if account.can_enter(data_dir):
        return data_dir / "services"
    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]
    return SHARED_ROOT / f"machpay-{digest}"


def create_home(home: Path, data_dir: Path) -> None:
    """Create the home, owned by the caller, passable for the server account, saying which data folder it serves."""
    home.mkdir(mode=0o711, exist_ok=True)
    _require_own(home)
    home.chmod(0o711)
    (home / _OWNER_FILE).write_text(str(data_dir))


def shared_homes() -> Iterator[tuple[Path, Path]]:
    """Yield this user's homes under /var/tmp, each with the data folder it serves."""
    for home in SHARED_ROOT.glob("machpay-" + "[0-9a-f]" * 16):
        try:
            _require_own(home)
            yield home, Path((home / _OWNER_FILE).read_text())
        except (OSError, ServicesError):
            # Somebody else's, or just being created or removed.
            continue


def place_programs(packages: tuple[Path, ...], account: Account) -> Path:
    """Return a folder from which `account` can run the given sibling package folders.

    That is where they are installed, or a copy under /var/tmp made once per installation: the programs find
    their libraries and data relative to themselves, so the folders keep their relation.
    """
    site = packages[0].parent
    probes = [
        path
        for package in packages
        for path in (package, *package.rglob("*"))
        if path.is_dir() or path.is_symlink()
    ]
    if all(account.can_enter(path if path.is_dir() else path.resolve().parent) for path in probes):
        return site
    return _copy_programs(packages, site)


@functools.cache
def _copy_programs(packages: tuple[Path, ...], site: Path) -> Path:
    stamp = "\n".join(f"{package}:{package.stat().st_mtime_ns}" for package in packages)
    target = SHARED_ROOT / f"machpay-programs-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    if not target.exists():
        partial = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=SHARED_ROOT))
        for package in packages:
            shutil.copytree(
                package, partial / package.name, ignore=shutil.ignore_patterns("__pycache__", "*.a")
            )
        _open_for_everyone(partial)
        try:
            partial.rename(target)
        except OSError:
            # Another session finished the same copy first.
            shutil.rmtree(partial)
    # Names under /var/tmp can be guessed: never run programs that somebody else may have put there.
    _require_own(target)
    return target


def _open_for_everyone(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        path.chmod((mode | (0o055 if mode & 0o100 else 0o044)) & ~0o022)


def _require_own(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise ServicesError(f"{folder} exists but is not a private folder of this user: remove it")
