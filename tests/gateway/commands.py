"""Runs `machpay-gateway` in this process, as a test's own words for it."""

import io
import json
from dataclasses import dataclass
from typing import Any

import pytest

from machpay_gateway.cli import main


@dataclass(frozen=True)
class Ran:
    """What one run of the command left."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> Any:
        """The JSON object it printed, and nothing else."""
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        """The last error it printed as JSON."""
        return json.loads(self.err.splitlines()[-1])


class Command:
    """`command("init", "--json", ...)`; `answers` are typed by the operator, line by line."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def __call__(self, *arguments: object, answers: str = "") -> Ran:
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(answers.encode())))
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = self._capsys.readouterr()
        assert "Traceback" not in err
        return Ran(code, out, err)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capsys, monkeypatch)
