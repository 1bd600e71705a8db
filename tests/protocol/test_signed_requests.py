"""Signed requests: bound to method, target, body, time and nonce."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machpay.protocol.encoding import to_b64
from machpay.protocol.errors import MalformedError, SignatureError
from machpay.protocol.signed_requests import WINDOW_S, sign_request, verify_request
from tests.protocol.values import AGENT, GATEWAY, NOW

TARGET = "/settlements?x=1"
BODY = b'{"batch":[]}'


def signed(**changes: str | None) -> dict[str, str]:
    headers = {
        name.lower(): value
        for name, value in sign_request(GATEWAY, "POST", TARGET, BODY, timestamp=NOW).items()
    }
    for name, value in changes.items():
        header = f"x-machpay-{name}"
        if value is None:
            del headers[header]
        else:
            headers[header] = value
    return headers


@given(st.text(st.characters(codec="ascii", exclude_characters="\n"), max_size=80), st.binary(max_size=200))
def test_round_trip(path, body):
    headers = {k.lower(): v for k, v in sign_request(AGENT, "get", "/" + path, body, timestamp=NOW).items()}
    signer = verify_request("GET", "/" + path, body, headers, now=NOW)
    assert signer.key == AGENT.public
    assert signer.pubkey == AGENT.pubkey
    assert signer.timestamp == NOW
    assert str(signer.nonce) == headers["x-machpay-nonce"]


def test_each_request_has_a_nonce_of_its_own():
    assert len({signed()["x-machpay-nonce"] for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("PUT", TARGET, BODY),
        ("POST", "/settlements", BODY),
        ("POST", TARGET, BODY + b" "),
        ("POST", TARGET, b""),
    ],
)
def test_another_request_is_refused(method, target, body):
    with pytest.raises(SignatureError, match="does not verify"):
        verify_request(method, target, body, signed(), now=NOW)


@pytest.mark.parametrize("offset", [-WINDOW_S, 0, WINDOW_S])
def test_a_clock_at_the_edge_of_the_window_is_accepted(offset):
    assert verify_request("POST", TARGET, BODY, signed(), now=NOW + offset).key == GATEWAY.public


@pytest.mark.parametrize("offset", [-WINDOW_S - 1, -WINDOW_S - 0.001, WINDOW_S + 0.001, WINDOW_S + 1])
def test_a_clock_past_the_window_is_refused(offset):
    with pytest.raises(SignatureError, match="60 s"):
        verify_request("POST", TARGET, BODY, signed(), now=NOW + offset)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", AGENT.pubkey),
        ("timestamp", str(NOW + 1)),
        ("nonce", "01a1fd8c-6900-7000-8000-000000000001"),
        ("signature", to_b64(bytes(64))),
    ],
)
def test_a_changed_header_is_refused(name, value):
    with pytest.raises(SignatureError, match="does not verify"):
        verify_request("POST", TARGET, BODY, signed(**{name: value}), now=NOW)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key", None),
        ("key", "not base58!"),
        ("timestamp", None),
        ("timestamp", ""),
        ("timestamp", "-5"),
        ("timestamp", "1.5"),
        ("timestamp", "1" * 13),
        ("timestamp", "١٢"),
        ("timestamp", f"0{NOW}"),
        ("nonce", None),
        ("nonce", "x"),
        ("nonce", "{01a1fd8c-6900-7000-8000-000000000001}"),
        ("nonce", "01A1FD8C-6900-7000-8000-000000000001"),
        ("signature", None),
        ("signature", "AA=="),
        ("signature", "*"),
    ],
)
def test_each_malformed_header_is_named(name, value):
    with pytest.raises(MalformedError, match=f"(?i)x-machpay-{name}"):
        verify_request("POST", TARGET, BODY, signed(**{name: value}), now=NOW)
