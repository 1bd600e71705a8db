"""The rules of several gateway processes, without processes: identities, seals, words about all of them."""

import hashlib
import struct
from pathlib import Path

import pytest

from machpay.protocol.keys import SigningKey
from machpay_gateway.errors import ConfigError
from machpay_gateway.siblings.family import Family, folder, identities, shared_secret, with_count
from machpay_gateway.siblings.merge import merge_health, merge_metrics
from machpay_gateway.siblings.seal import WINDOW_S, Origin, seal, unseal
from tests.gateway.factories import ROUTES, make_settings

KEY = SigningKey(b"g" * 32)
NOW = 1_700_000_000.0
SECRET = shared_secret(KEY)
ORIGIN = Origin("2001:db8::7", "https")


def test_an_identity_is_derived_as_documented_and_the_first_is_the_key_itself(tmp_path: Path) -> None:
    settings = with_count(make_settings(tmp_path, KEY), 3)
    seeds = [
        hashlib.sha256(b"machpay:gateway-worker:v1" + b"g" * 32 + struct.pack("<I", index)).digest()
        for index in (1, 2)
    ]
    assert [key.pubkey for key in identities(settings)] == [
        KEY.pubkey,
        *(SigningKey(seed).pubkey for seed in seeds),
    ]
    assert [folder(settings, index) for index in (0, 2)] == [
        settings.data_dir,
        settings.data_dir / "worker-2",
    ]


def _with_siblings(tmp_path: Path, *indexes: int, workers: str = "first = 1\nport = 9000") -> list[str]:
    siblings = "".join(
        f'\n[[siblings]]\nindex = {index}\nurl = "http://10.0.0.{index}:9000"\n' for index in indexes
    )
    routes = f"{ROUTES}\n[workers]\n{workers}\n{siblings}"
    settings = make_settings(tmp_path, KEY, routes=routes)
    return list(Family.of(settings, 1, {1: 9000}).urls)


def test_identities_of_all_machines_are_numbered_through(tmp_path: Path) -> None:
    assert _with_siblings(tmp_path, 2, 0) == [
        "http://10.0.0.0:9000",
        "http://127.0.0.1:9000",
        "http://10.0.0.2:9000",
    ]


@pytest.mark.parametrize(
    ("indexes", "said"),
    [((2,), "leave a gap"), ((0, 1), "this machine's own"), ((0, 0), "there twice"), ((0, 3), "leave a gap")],
)
def test_a_number_that_is_missing_or_taken_is_refused(
    tmp_path: Path, indexes: tuple[int, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        _with_siblings(tmp_path, *indexes)


def test_siblings_elsewhere_need_a_port_that_they_can_know(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"workers\.port"):
        _with_siblings(tmp_path, 0, workers="first = 1")


def test_a_client_keeps_its_identity_when_others_join() -> None:
    few = Family(tuple("abc"), ("",) * 3, 0, range(3))
    more = Family(tuple("abcd"), ("",) * 4, 0, range(4))
    clients = [b"10.0.0.%d" % number for number in range(200)]
    homes = [(few.home(client), more.home(client)) for client in clients]
    # Whoever moves moves to the new one, and about a quarter does.
    assert {after for before, after in homes if after != before} == {3}
    assert 20 < sum(after != before for before, after in homes) < 80
    assert {before for before, _ in homes} == {0, 1, 2}


def test_a_seal_is_good_for_one_process_and_one_request_line_for_a_minute() -> None:
    line = {"gateway": KEY.pubkey, "method": "POST", "target": b"/paid?x=%20"}
    name, value = seal(SECRET, ORIGIN, **line, now=NOW)
    assert name == b"machpay-sibling"
    assert unseal(SECRET, value, **line, now=NOW + WINDOW_S) == ORIGIN
    assert unseal(SECRET, value, **line, now=NOW - WINDOW_S) == ORIGIN
    assert unseal(SECRET, value, **line, now=NOW + WINDOW_S + 1) is None
    assert unseal(SECRET, value, **line, now=NOW - WINDOW_S - 1) is None
    for other in ({"gateway": "x"}, {"method": "GET"}, {"target": b"/paid?x= "}):
        assert unseal(SECRET, value, **{**line, **other}, now=NOW) is None
    assert unseal(shared_secret(SigningKey(b"h" * 32)), value, **line, now=NOW) is None
    for forged in (
        value.replace(b"2001:db8::7", b"127.0.0.1"),
        value.replace(b"https", b"http"),
        b"1" + value,
        b"",
        b";;;",
        b"\xff;" * 3,
    ):
        assert unseal(SECRET, forged, **line, now=NOW) is None


def test_health_is_down_only_if_nobody_can_take_payments() -> None:
    family = Family(("a", "b"), ("", ""), 1, range(2))
    well, degraded = {"status": "ok", "gateway": "a"}, {"status": "degraded", "gateway": "b"}
    assert merge_health(family, {0: well, 1: well})[0] == 200
    assert merge_health(family, {0: well, 1: well})[1]["status"] == "ok"
    assert merge_health(family, {0: well, 1: degraded})[1]["status"] == "degraded"
    code, body = merge_health(family, {0: None, 1: well})
    assert (code, body["status"], body["gateway"]) == (200, "degraded", "b")
    assert [(each["worker"], each["gateway"], each["status"]) for each in body["workers"]] == [
        (0, "a", "down"),
        (1, "b", "ok"),
    ]
    assert merge_health(family, {0: None, 1: None})[0] == 503


def test_metrics_of_several_processes_are_one_text_with_a_label() -> None:
    first = (
        b'# HELP a_total A\n# TYPE a_total counter\na_total{k="v"} 1.0\n# HELP b B\n# TYPE b gauge\nb 2.0\n'
    )
    second = first.replace(b"1.0", b"5.0")
    assert merge_metrics({1: second, 0: first}).decode().splitlines() == [
        "# HELP a_total A",
        "# TYPE a_total counter",
        'a_total{worker="0",k="v"} 1.0',
        'a_total{worker="1",k="v"} 5.0',
        "# HELP b B",
        "# TYPE b gauge",
        'b{worker="0"} 2.0',
        'b{worker="1"} 2.0',
    ]
