"""Which process runs which tests under `pytest -n`, and in which order.

A file is one unit of work, and so is the folder that shares a whole network: it starts once. The longest are given out
first, or a process would wait for another's last file.
"""

import pytest
from xdist.scheduler import LoadFileScheduling

WHOLE_NETWORK = "tests/e2e/"
# It starts demos of its own.
APART = "tests/e2e/test_demo_end_to_end.py"
LONGEST_FIRST = (
    WHOLE_NETWORK,
    "tests/settlement/",
    "tests/facilitator/",
    "tests/gateway/test_claim.py",
    "tests/x402/",
    "tests/console/test_browser.py",
    "tests/devnet/",
    "tests/program/test_random.py",
    "tests/telemetry/test_pressure.py",
    "tests/gateway/",
    "tests/payments/",
    "tests/sdk/",
    "tests/live/",
)
"""Beginnings of paths; what is not named comes last."""


class Schedule(LoadFileScheduling):
    """Files in the order of their collection, the whole network's as one."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        # By default those with the most tests come first, which are the shortest ones.
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return WHOLE_NETWORK if file.startswith(WHOLE_NETWORK) and file != APART else file


def sort(items: list[pytest.Item]) -> None:
    """Put the longest first; otherwise the order stays."""
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    found = (n for n, beginning in enumerate(LONGEST_FIRST) if item.nodeid.startswith(beginning))
    return next(found, len(LONGEST_FIRST))
