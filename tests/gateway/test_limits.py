"""The rate limit and trusted proxies by themselves: exact, bounded, and cheap to ask."""

import pytest

from machpay_gateway.errors import ConfigError
from machpay_gateway.limits import Proxies, RateLimit

HOST = "203.0.113.7"


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000.0
        monkeypatch.setattr("machpay_gateway.limits.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_burst_passes_and_then_the_rate(clock: Clock) -> None:
    limit = RateLimit(10, 5, 100)
    assert [limit.take(HOST) for _ in range(5)] == [0.0] * 5
    assert limit.take(HOST) == pytest.approx(0.1)
    clock.now += 0.1
    assert limit.take(HOST) == 0.0
    assert limit.take(HOST) == pytest.approx(0.1)
    # What was refused was not counted.
    clock.now += 100
    assert [limit.take(HOST) for _ in range(6)] == [0.0] * 5 + [pytest.approx(0.1)]


def test_addresses_do_not_share_their_allowance(clock: Clock) -> None:
    limit = RateLimit(1, 1, 100)
    assert limit.take(HOST) == 0.0
    assert limit.take("203.0.113.8") == 0.0
    assert limit.take(HOST) > 0


def test_one_ipv6_network_is_one_client(clock: Clock) -> None:
    limit = RateLimit(1, 1, 100)
    assert limit.take("2001:db8:0:1::1") == 0.0
    assert limit.take("2001:db8:0:1:ffff::2") > 0
    assert limit.take("2001:db8:0:2::1") == 0.0
    assert limit.take("::ffff:203.0.113.7") == 0.0
    assert limit.take(HOST) > 0


def test_the_machine_itself_and_a_rate_of_0_are_no_limit(clock: Clock) -> None:
    limit = RateLimit(1, 1, 10)
    assert {limit.take(host) for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1") * 2} == {0.0}
    assert {RateLimit(0, 1, 10).take(HOST) for _ in range(5)} == {0.0}


def test_memory_is_bounded_and_a_flood_of_addresses_shares_one_allowance(clock: Clock) -> None:
    limit = RateLimit(1, 2, 50)
    for number in range(500):
        limit.take(f"198.51.100.{number}")
    assert len(limit) <= 51
    assert limit.take("192.0.2.1") > 0
    # Who was there before keeps its own.
    assert limit.take("198.51.100.3") == 0.0
    # When they are whole again they are forgotten.
    clock.now += 10
    assert limit.take("192.0.2.1") == 0.0
    assert len(limit) <= 2


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (b"", "10.0.0.1"),
        (b"203.0.113.7", "203.0.113.7"),
        (b"6.6.6.6, 203.0.113.7", "203.0.113.7"),
        (b"6.6.6.6, 203.0.113.7, 10.0.0.2", "203.0.113.7"),
        (b"10.0.0.3,10.0.0.2", "10.0.0.3"),
        (b"203.0.113.7, nonsense", "10.0.0.1"),
        (b"nonsense, 10.0.0.2", "10.0.0.2"),
        (b"2001:db8::1", "2001:db8::1"),
    ],
)
def test_the_client_is_the_first_from_the_right_that_is_no_proxy(forwarded: bytes, client: str) -> None:
    proxies = Proxies(["10.0.0.0/8"])
    assert proxies.trusts("10.0.0.1")
    assert proxies.client("10.0.0.1", forwarded) == client
    # The same proxy, seen by a gateway that listens on IPv6 and IPv4 alike.
    assert proxies.trusts("::ffff:10.0.0.1")


def test_without_proxies_nobody_is_believed() -> None:
    assert not Proxies([])
    assert not Proxies([]).trusts("127.0.0.1")
    assert not Proxies(["10.0.0.0/8"]).trusts("not an address")


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="trusted_proxies"):
        Proxies(["10.0.0.0/99"])
