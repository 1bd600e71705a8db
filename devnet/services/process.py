"""Server processes by pid: start one, recognise one that an earlier run left behind, stop it.

A pid alone proves nothing (pids are reused), so a process counts as ours only when its command line names our
folder.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from devnet.services.unprivileged import Account

_LOG_BYTES_MAX = 10_000_000
_POLL_S = 0.02
# What this process started and has not seen the end of: only its parent can reap a process.
_children: dict[int, subprocess.Popen[bytes]] = {}


def spawn(
    command: Sequence[str | Path], *, account: Account, cwd: Path, log: Path
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own: a Ctrl-C at the terminal must not end it before its clients."""
    reap()
    if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
        log.unlink()
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=clean_environment(),
            start_new_session=True,
            umask=0o077,
            **account.popen_arguments(),
        )
    _children[child.pid] = child
    return child


def clean_environment() -> dict[str, str]:
    """What a server gets to see: nothing of ours, least of all PG* variables or secrets."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def runs_in(pid: int, folder: Path) -> bool:
    """Whether `pid` is a live process whose command line names `folder`."""
    return str(folder) in command_line(pid)


def command_line(pid: int) -> str:
    """Return the command line of a live process, or "" (no such process, or a zombie)."""
    proc = Path(f"/proc/{pid}/cmdline")
    if Path("/proc/self/cmdline").exists():
        try:
            return proc.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    command = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
    listing = subprocess.run(command, check=False, capture_output=True, text=True)
    return listing.stdout.strip()


def lives_in(pid: int, folder: Path) -> bool:
    """Whether `pid` is a live process working in `folder` (Linux; elsewhere never)."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == folder
    except OSError:
        return False


def pids() -> list[int]:
    """Return the pids of all processes (Linux; elsewhere none)."""
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def stop(pid: int, signals: Sequence[tuple[signal.Signals, float]], *, alive: Callable[[int], bool]) -> bool:
    """Send each signal in turn and wait its seconds for the process to end; return whether it did.

    Works on children of this process (which are reaped) and on strangers alike. `alive` tells the process
    from one that got its pid later.
    """
    for number, patience_s in signals:
        if not alive(pid):
            break
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + patience_s
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    if alive(pid):
        return False
    reap()
    return True


def reap() -> None:
    """Collect the children that have ended or are past the point where they look alive."""
    for pid, child in list(_children.items()):
        if not command_line(pid):
            child.wait()
            del _children[pid]


def log_tail(log: Path, lines: int = 12) -> str:
    """Return the last lines of a server's log, for an error message."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
