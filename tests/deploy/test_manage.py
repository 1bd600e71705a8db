"""`manage.py` as a person calls it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_missing_setting_is_named_in_one_line() -> None:
    # With a database named, no demo is joined that may run in this checkout.
    environment = {"DATABASE_URL": "postgresql:///nowhere", "MACHPAY_PROFILE": "production"}
    command = [sys.executable, ROOT / "manage.py", "demo_fund", "key", "5"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "DJANGO_SECRET_KEY must be set (see .env.example). For the demo's network: `make demo` has to be running."
    ]
