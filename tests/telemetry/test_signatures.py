"""Who may send: the key that signs the request, once, now, and for itself only."""

import json
import time

import pytest

from machpay.protocol.events import BATCH_CONTENT_TYPE
from machpay.protocol.keys import SigningKey
from machpay.protocol.signed_requests import (
    KEY_HEADER,
    NONCE_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    sign_request,
)
from tests.telemetry.conftest import Rows
from tests.telemetry.senders import TARGET, Sender

pytestmark = pytest.mark.django_db

COUNT = "SELECT count(*) FROM telemetry_events WHERE source = %s"


def signed(
    gateway: Sender, body: bytes, key: SigningKey | None = None, target: str = TARGET
) -> dict[str, str]:
    return {"Content-Type": BATCH_CONTENT_TYPE, **sign_request(key or gateway.key, "POST", target, body)}


def body_of(gateway: Sender) -> bytes:
    return json.dumps([gateway.event()]).encode()


@pytest.mark.parametrize("missing", [KEY_HEADER, TIMESTAMP_HEADER, NONCE_HEADER, SIGNATURE_HEADER])
def test_an_unsigned_request_is_refused(gateway: Sender, rows: Rows, missing: str) -> None:
    body = body_of(gateway)
    headers = signed(gateway, body)
    del headers[missing]
    response = gateway.post_as_is(body, headers)
    assert (response.status_code, response.json()["code"]) == (400, "malformed")
    assert missing in response.json()["detail"]
    assert rows(COUNT, gateway.source) == [(0,)]


def test_a_changed_body_is_refused(gateway: Sender, rows: Rows) -> None:
    body = body_of(gateway)
    response = gateway.post_as_is(body + b" ", signed(gateway, body))
    assert (response.status_code, response.json()["code"]) == (401, "invalid_signature")
    assert rows(COUNT, gateway.source) == [(0,)]


def test_a_signature_for_another_path_is_refused(gateway: Sender, rows: Rows) -> None:
    body = body_of(gateway)
    response = gateway.post_as_is(body, signed(gateway, body, target="/settlements"))
    assert (response.status_code, response.json()["code"]) == (401, "invalid_signature")
    assert rows(COUNT, gateway.source) == [(0,)]


def test_another_key_cannot_send_for_a_gateway(gateway: Sender, rows: Rows) -> None:
    body = body_of(gateway)
    response = gateway.post_as_is(body, signed(gateway, body, key=SigningKey.generate()))
    assert response.status_code == 400
    assert [error["code"] for error in response.json()["errors"]] == ["source_mismatch"]
    assert rows(COUNT, gateway.source) == [(0,)]


@pytest.mark.parametrize("offset", [-62, 62])
def test_a_request_signed_at_another_time_is_refused(
    gateway: Sender, rows: Rows, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    body = body_of(gateway)
    now = time.time()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: now + offset)
        headers = signed(gateway, body)
    response = gateway.post_as_is(body, headers)
    assert (response.status_code, response.json()["code"]) == (401, "invalid_signature")
    assert rows(COUNT, gateway.source) == [(0,)]


def test_a_signed_request_works_once(gateway: Sender, rows: Rows) -> None:
    body = body_of(gateway)
    headers = signed(gateway, body)
    assert gateway.post_as_is(body, headers).status_code == 202
    response = gateway.post_as_is(body, headers)
    assert (response.status_code, response.json()["code"]) == (401, "invalid_signature")
    assert gateway.post_as_is(body, signed(gateway, body)).json()["duplicates"] == 1
    assert rows(COUNT, gateway.source) == [(1,)]
