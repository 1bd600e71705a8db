"""The replay guard: what it remembers, for how long, and that forgetting opens nothing."""

import time
from pathlib import Path

from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce
from machpay_gateway.replay import ReplayGuard
from tests.gateway.factories import make_attempt, make_credit, make_intent
from tests.gateway.logs import KEY, running

AGENT, OTHER = SigningKey(b"a" * 32).public, SigningKey(b"b" * 32).public
NONCE = new_nonce()


def test_a_nonce_is_remembered_per_agent() -> None:
    guard = ReplayGuard()
    guard.add(AGENT, NONCE, 1_000)
    assert guard.has(AGENT, NONCE)
    assert not guard.has(OTHER, NONCE)
    assert not guard.has(AGENT, new_nonce())


def test_a_nonce_is_forgotten_only_after_its_deadline_and_the_skew() -> None:
    guard = ReplayGuard()
    guard.add(AGENT, NONCE, 1_000)
    guard.prune(1_029)
    assert guard.has(AGENT, NONCE)
    guard.prune(1_030)
    assert not guard.has(AGENT, NONCE)
    assert len(guard) == 0
    assert guard.floor == 1_000


def test_the_floor_does_not_move_back_with_the_clock() -> None:
    guard = ReplayGuard()
    guard.prune(2_000)
    guard.prune(1_370)
    assert guard.floor == 1_970


def test_a_clock_that_was_far_ahead_does_not_stop_the_gateway() -> None:
    guard = ReplayGuard()
    guard.prune(2_000)
    guard.prune(1_369)
    assert guard.floor == 1_339


def test_a_snapshot_restores_what_can_still_be_replayed() -> None:
    guard = ReplayGuard()
    guard.add(AGENT, NONCE, 1_000)
    late = new_nonce()
    guard.add(AGENT, late, 2_000)
    restored = ReplayGuard()
    restored.floor = 1_500
    restored.restore(guard.snapshot())
    assert not restored.has(AGENT, NONCE)
    assert restored.has(AGENT, late)


async def test_a_clock_that_steps_back_does_not_make_a_forgotten_nonce_acceptable(tmp_path: Path) -> None:
    agent = SigningKey(b"a" * 32)
    async with running(tmp_path) as payments:
        deadline = int(time.time()) + 40
        intent = make_intent(agent, KEY.public, deadline=deadline)
        attempt = make_attempt(agent, KEY.public, intent)
        assert not payments.standing(attempt, make_credit()).nonce_seen
        payments.book.guard.prune(deadline + 30)
        assert payments.standing(attempt, make_credit()).nonce_seen
