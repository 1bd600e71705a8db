"""What an operator may say in the environment, and what stops a process."""

import os
import subprocess
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured

from machpay_site import env


@pytest.mark.parametrize("said", ["-1", "nan", "inf", "1e400", "0.4"])
def test_a_number_outside_its_bounds_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("LEASE_GRACE_S", said)
    with pytest.raises(ImproperlyConfigured) as refused:
        env.number("LEASE_GRACE_S", default=30.0, minimum=0.5)
    assert str(refused.value) == f"LEASE_GRACE_S must be at least 0.5, not {said}"


def test_a_number_is_read_and_has_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEASE_GRACE_S", "0.5")
    assert env.number("LEASE_GRACE_S", default=30.0, minimum=0.5) == 0.5
    monkeypatch.setenv("LEASE_GRACE_S", "")
    assert env.number("LEASE_GRACE_S", default=30.0, minimum=0.5) == 30.0


def test_the_options_of_a_database_url_reach_libpq() -> None:
    program = "from machpay_site import settings; print(settings.DATABASES['default']['OPTIONS'])"
    environ = os.environ | {
        "MACHPAY_PROFILE": "demo",
        "DATABASE_URL": "postgresql://u:p@db:5432/machpay?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "REDIS_URL": "redis://127.0.0.1:1",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    options = {"application_name": "machpay", "sslmode": "verify-full", "sslrootcert": "/etc/ca.pem"}
    assert done.stdout.strip() == str(options)
