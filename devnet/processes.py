"""Child processes: started with a log file, awaited until healthy, stopped by pid, never left behind.

A child lives in a session of its own so that Ctrl-C reaches only the supervisor, which stops children in order; the
kernel ends it if the supervisor dies without doing so.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

LIFE_S_MIN = 10.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ProcessFailed(RuntimeError):
    """A child ended, or did not become healthy in time. The text names it and shows the end of its log."""


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class ManagedProcess:
    """One child: its command, its log, and how to tell that it is ready."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log_dir: Path,
        health_url: str | Callable[[], str | None] | None = None,
        cwd: Path,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.env = dict(env)
        self.log_path = log_dir / f"{name}.log"
        self.cwd = cwd
        self._health_url = health_url
        self._child: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start the child; its output is appended to its log file."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._started_at = time.monotonic()
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                self.command,
                env=self.env,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  (the supervisor starts children from its only thread)
            )

    def check(self) -> None:
        """Raise `ProcessFailed` if the child has ended by itself."""
        if self._child is not None and (code := self._child.poll()) is not None:
            raise ProcessFailed(f"{self.name} ended with status {code}.\n{self.log_tail()}")

    def revive(self) -> bool:
        """Start the child again if it has ended by itself; True if it had. Raises `ProcessFailed` for one that did not
        live for `LIFE_S_MIN`: starting it once more would not help."""
        if self._child is None or self._child.poll() is None:
            return False
        if time.monotonic() - self._started_at < LIFE_S_MIN:
            self.check()
        self.kill()
        self.start()
        return True

    def wait_healthy(self, timeout_s: float = 180.0) -> None:
        """Return when the health address answers 200."""
        deadline = time.monotonic() + timeout_s
        # Our own processes speak plain HTTP: reading certificates would take the child's time on a small machine.
        with httpx.Client(timeout=2.0, trust_env=False, verify=False) as client:  # noqa: S501
            while time.monotonic() < deadline:
                self.check()
                url = self._health_url() if callable(self._health_url) else self._health_url
                if url is not None:
                    with contextlib.suppress(httpx.HTTPError):
                        if client.get(url).status_code == 200:
                            return
                time.sleep(0.05)
        raise ProcessFailed(f"{self.name} was not healthy within {timeout_s:.0f} s.\n{self.log_tail()}")

    def log_tail(self, lines: int = 25) -> str:
        try:
            text = self.log_path.read_text(errors="replace")
        except FileNotFoundError:
            text = ""
        tail = "\n".join("    " + line for line in text.splitlines()[-lines:])
        return f"The end of {self.log_path}:\n{tail}"

    def terminate(self) -> None:
        """Ask the child to stop, without waiting."""
        if self.running and self._child is not None:
            self._child.terminate()

    def wait_stopped(self, timeout_s: float = 10.0) -> None:
        """Wait for a terminated child, then end whatever is left of its process group."""
        if self._child is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """End the child and its process group at once (SIGKILL)."""
        if self._child is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._child = None

    def stop(self, timeout_s: float = 10.0) -> None:
        self.terminate()
        self.wait_stopped(timeout_s)
