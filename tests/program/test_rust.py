"""The crate's own tests (contracts/program/tests): the same vectors, read by the program's parsers on this machine."""

import os
import re
import shutil
import subprocess

import pytest

from tests.program.world import ROOT

CRATE = ROOT / "contracts" / "program"
# Older ones do not read the lock file.
CARGO_VERSION_MIN = (1, 85)


def _cargo_version() -> tuple[int, int] | None:
    cargo = shutil.which("cargo")
    if cargo is None:
        return None
    answer = subprocess.run([cargo, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"cargo (\d+)\.(\d+)", answer)
    return (int(found[1]), int(found[2])) if found else None


@pytest.mark.timeout(600)
def test_the_crates_own_tests_pass() -> None:
    version = _cargo_version()
    if version is None or version < CARGO_VERSION_MIN:
        pytest.skip(f"cargo {'.'.join(map(str, CARGO_VERSION_MIN))} or newer is not installed")
    target = ROOT / "contracts" / "target" / "host"
    command = ["cargo", "test", "--quiet", "--locked", "--target-dir", str(target), "--test", "vectors"]
    result = subprocess.run(command, cwd=CRATE, env=os.environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    passed = re.search(r"(\d+) passed; 0 failed", result.stdout)
    assert passed is not None
    assert int(passed[1]) >= 6
