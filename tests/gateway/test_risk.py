"""Who is told to be running out of bond, and how often."""

from typing import Any

import pytest

from machpay.protocol.keys import SigningKey
from machpay_gateway.book import Book
from machpay_gateway.decide import Credit
from machpay_gateway.telemetry.risk import QUIET_S, WINDOW_S, RiskWatch
from tests.gateway.factories import make_credit, network

GATEWAY, AGENT = SigningKey(b"g" * 32).public, SigningKey(b"a" * 32).public


class Scene:
    """One agent, its channel and its credit; `told` are the events' data."""

    def __init__(self, **credit: Any) -> None:
        self.book = Book(network(), GATEWAY)
        self.channel = self.book.channel(AGENT)
        self.credit: Credit | None = make_credit(**credit)
        self.told: list[dict[str, Any]] = []
        self.watch = RiskWatch(self.book, lambda _agent: self.credit, self._emit)

    def _emit(self, kind: str, subject: str, data: Any) -> None:
        assert (kind, subject) == ("com.machpay.agent.insolvency_risk", str(AGENT))
        self.told.append(data())

    async def charge(self, amount: int, now: float) -> None:
        self.channel.served += amount
        await self.watch.look(now)


async def test_an_agent_is_told_of_when_its_bond_will_not_last_an_hour() -> None:
    scene = Scene(bond=1_000)
    await scene.charge(400, 0)
    assert scene.told == []
    await scene.charge(101, 60)
    assert scene.told == [{"agent_id": str(AGENT), "remaining_balance": "499", "burn_rate_1h": "501"}]


@pytest.mark.parametrize(
    "taken",
    [{"pending_withdrawal": 300}, {"claims": 300}, {"external": 300}],
)
async def test_what_others_have_a_right_to_is_not_left(taken: dict[str, int]) -> None:
    scene = Scene(bond=1_000, **taken)
    await scene.charge(350, 0)
    assert scene.told == []
    await scene.charge(1, 60)
    assert [told["remaining_balance"] for told in scene.told] == ["349"]


async def test_what_is_settled_left_the_bond_already() -> None:
    scene = Scene(bond=1_000, settled=500)
    scene.channel.served = 500
    watch = scene.watch = RiskWatch(scene.book, lambda _agent: scene.credit, scene._emit)
    await scene.charge(500, 0)
    assert scene.told == []
    assert watch._spending


async def test_the_same_agent_is_told_of_once_an_hour() -> None:
    scene = Scene(bond=1_000)
    await scene.charge(900, 0)
    await scene.charge(10, 60)
    assert len(scene.told) == 1
    await scene.charge(80, QUIET_S)
    assert len(scene.told) == 2


async def test_what_was_spent_long_ago_is_no_rate() -> None:
    scene = Scene(bond=1_000)
    await scene.charge(450, 0)
    await scene.charge(100, WINDOW_S + 1)
    assert scene.told == []
    await scene.watch.look(3 * WINDOW_S)
    assert scene.watch._spending == {}


async def test_nothing_is_said_of_an_agent_of_whom_nothing_is_known() -> None:
    scene = Scene()
    scene.credit = None
    await scene.charge(10**9, 0)
    assert scene.told == []


async def test_charges_of_an_earlier_run_are_no_rate() -> None:
    scene = Scene(bond=1_000)
    scene.channel.served = 990
    scene.watch = RiskWatch(scene.book, lambda _agent: scene.credit, scene._emit)
    await scene.watch.look(0)
    assert scene.told == []
