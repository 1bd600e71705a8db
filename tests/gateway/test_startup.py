"""Before a gateway serves: what it may use of the machine."""

import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from machpay_gateway.settings import Settings
from machpay_gateway.startup import FILES_BESIDE, allow_files
from tests.gateway.factories import make_settings
from tests.gateway.logs import KEY


@pytest.fixture
def hard() -> Iterator[int]:
    """The most files this process may open; how many it may open now is put back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def with_connections(folder: Path, count: int) -> Settings:
    settings = make_settings(folder, KEY)
    return replace(settings, limits=msgspec.structs.replace(settings.limits, max_connections=count))


def test_as_many_files_may_be_open_as_there_may_be_connections(
    tmp_path: Path, hard: int, caplog: pytest.LogCaptureFixture
) -> None:
    settings = with_connections(tmp_path, 100)
    needed = 100 + settings.upstream.max_connections + FILES_BESIDE
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed - 1, hard))
    allow_files(settings)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (needed, hard)
    # A higher limit is left as it is.
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed + 1, hard))
    allow_files(settings)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (needed + 1, hard)
    assert caplog.records == []


def test_a_machine_that_does_not_allow_as_many_is_named(
    tmp_path: Path, hard: int, caplog: pytest.LogCaptureFixture
) -> None:
    if hard == resource.RLIM_INFINITY:
        pytest.skip("this machine has no limit")
    allow_files(with_connections(tmp_path, hard + 1))
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    assert [f"may open {hard} files" in record.getMessage() for record in caplog.records] == [True]
