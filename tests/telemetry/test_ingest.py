"""`POST /v1/ingest`: what is stored, what is refused, and that sending again changes nothing."""

import base64
import json
from decimal import Decimal
from typing import Any

import httpx
import pytest

from apps.telemetry.receiver.parse import EVENTS_MAX
from apps.telemetry.receiver.route import DATA_BYTES_MAX
from machpay.protocol.events import EVENT_CONTENT_TYPE
from machpay.protocol.keys import SigningKey
from tests.support.http import LOCAL
from tests.support.servers import Server
from tests.telemetry.conftest import Rows
from tests.telemetry.senders import Sender, ago

pytestmark = pytest.mark.django_db

COUNT = "SELECT count(*) FROM telemetry_events WHERE source = %s"


def answer(accepted: int = 0, duplicates: int = 0, rejected: int = 0) -> dict[str, Any]:
    return {"accepted": accepted, "duplicates": duplicates, "rejected": rejected, "errors": []}


def refusal(response: httpx.Response) -> tuple[str, str]:
    """The code and text of the only refused event of a request that stored nothing."""
    assert response.status_code == 400
    body = response.json()
    assert body["code"] == "events_refused"
    [error] = body["errors"]
    return error["code"], error["detail"]


def test_a_batch_is_stored_before_it_is_acknowledged(gateway: Sender, rows: Rows) -> None:
    event = gateway.event(data={"any": ["thing", 1, None, "ü"]}, subject="agent:x", traceparent="00-1-2-03")
    response = gateway.send(event, gateway.event())
    assert (response.status_code, response.json()) == (202, answer(accepted=2))
    assert rows(
        "SELECT source, type, subject, data, extensions FROM telemetry_events WHERE id = %s", event["id"]
    ) == [(gateway.source, event["type"], "agent:x", event["data"], {"traceparent": "00-1-2-03"})]
    assert rows(COUNT, gateway.source) == [(2,)]


def test_an_empty_batch_is_fine(gateway: Sender, rows: Rows) -> None:
    response = gateway.send()
    assert (response.status_code, response.json()) == (202, answer())
    assert rows(COUNT, gateway.source) == [(0,)]


def test_one_event_in_structured_mode(gateway: Sender, rows: Rows) -> None:
    event = gateway.event(data="text")
    response = gateway.post(json.dumps(event).encode(), EVENT_CONTENT_TYPE)
    assert (response.status_code, response.json()) == (202, answer(accepted=1))
    assert rows("SELECT data FROM telemetry_events WHERE id = %s", event["id"]) == [("text",)]


def test_one_event_in_binary_mode(gateway: Sender, rows: Rows) -> None:
    event = gateway.event()
    headers = {f"ce-{name}": value for name, value in event.items() if name != "data"} | {
        "ce-subject": "a%20b"
    }
    response = gateway.post(b'{"a": 1}', "application/json", headers)
    assert (response.status_code, response.json()) == (202, answer(accepted=1))
    assert rows("SELECT subject, data FROM telemetry_events WHERE id = %s", event["id"]) == [
        ("a b", {"a": 1})
    ]


def test_data_that_is_not_json_is_kept_as_it_came(gateway: Sender, rows: Rows) -> None:
    event = gateway.event(datacontenttype="image/png", data_base64=base64.b64encode(b"\x89PNG\x00").decode())
    del event["data"]
    assert gateway.send(event).status_code == 202
    assert rows("SELECT data, extensions FROM telemetry_events WHERE id = %s", event["id"]) == [
        (None, {"datacontenttype": "image/png", "data_base64": "iVBORwA="})
    ]
    assert refusal(gateway.send(event | {"id": "2", "data_base64": "!!"}))[0] == "malformed"
    assert rows(COUNT, gateway.source) == [(1,)]


def test_json_in_base64_is_decoded(gateway: Sender, rows: Rows) -> None:
    event = gateway.event(data_base64=base64.b64encode(b"[1]").decode())
    del event["data"]
    assert gateway.send(event).status_code == 202
    assert rows("SELECT data FROM telemetry_events WHERE id = %s", event["id"]) == [([1],)]


def test_a_payment_gets_a_typed_row(gateway: Sender, rows: Rows) -> None:
    payer, vendor = SigningKey.generate().pubkey, SigningKey.generate().pubkey
    event = gateway.payment(
        payer,
        gateway=gateway.key.pubkey,
        vendor=vendor,
        amount=str(2**64 - 1),
        service="lexicon",
        route="GET /embed",
        latency_ms=12.5,
        city="Zürich",
        nonce="not a column",
    )
    assert gateway.send(event).status_code == 202
    assert rows(
        "SELECT id, gateway, agent, vendor, service, route, amount_atomic, charged_atomic, http_status, latency_ms,"
        " city FROM payment_authorized WHERE source = %s",
        gateway.source,
    ) == [
        (
            *(event["id"], gateway.key.pubkey, payer, vendor, "lexicon", "GET /embed"),
            *(Decimal(2**64 - 1), Decimal(1200), 200, 12.5, "Zürich"),
        )
    ]
    assert rows("SELECT data->>'nonce' FROM telemetry_events WHERE id = %s", event["id"]) == [
        ("not a column",)
    ]


@pytest.mark.parametrize(
    ("data", "charged"),
    [({"status": "void", "charged": "0"}, 0), ({"charged": None}, 1500), ({"charged": 1500}, 1500)],
)
def test_what_a_payment_charged(gateway: Sender, rows: Rows, data: dict[str, Any], charged: int) -> None:
    assert gateway.send(gateway.payment(SigningKey.generate().pubkey, **data)).status_code == 202
    assert rows("SELECT charged_atomic FROM payment_authorized WHERE source = %s", gateway.source) == [
        (charged,)
    ]


def test_a_blocked_request_gets_a_typed_row(gateway: Sender, rows: Rows) -> None:
    payer = SigningKey.generate().pubkey
    full = gateway.blocked(agent_id=payer, required_amount="9", current_balance="3", route="/embed")
    bare = gateway.blocked()
    assert gateway.send(full, bare).status_code == 202
    found = rows(
        "SELECT gateway, agent, reason, route, required_amount_atomic, current_balance_atomic FROM request_blocked"
        " WHERE source = %s ORDER BY agent NULLS LAST",
        gateway.source,
    )
    key = gateway.key.pubkey
    assert found == [
        (key, payer, "insufficient_bond", "/embed", 9, 3),
        (key, None, "insufficient_bond", None, None, None),
    ]


def test_sending_again_changes_nothing(gateway: Sender, rows: Rows) -> None:
    events = [gateway.payment(SigningKey.generate().pubkey) for _ in range(3)]
    assert gateway.send(*events[:2]).json() == answer(accepted=2)
    assert gateway.send(*events).json() == answer(accepted=1, duplicates=2)
    assert gateway.send(*events).json() == answer(duplicates=3)
    assert rows(COUNT, gateway.source) == [(3,)]
    assert rows("SELECT count(*) FROM payment_authorized WHERE source = %s", gateway.source) == [(3,)]


def test_the_same_event_twice_in_one_batch_is_stored_once(gateway: Sender, rows: Rows) -> None:
    event = gateway.payment(SigningKey.generate().pubkey)
    assert gateway.send(event, event).json() == answer(accepted=1, duplicates=1)
    assert rows("SELECT count(*) FROM payment_authorized WHERE source = %s", gateway.source) == [(1,)]


def test_two_senders_may_use_the_same_id(receiver: Server, rows: Rows) -> None:
    first, second = Sender(receiver.url), Sender(receiver.url)
    event = first.event(id="same")
    assert first.send(event).json() == answer(accepted=1)
    assert second.send(event | {"source": second.source}).json() == answer(accepted=1)
    assert rows("SELECT count(*) FROM telemetry_events WHERE id = 'same'") == [(2,)]


def test_bad_events_are_named_and_good_ones_stored(gateway: Sender, rows: Rows) -> None:
    good = gateway.event()
    late = gateway.event(time=ago(days=30))
    response = gateway.send(
        late, good, {"id": "x"}, gateway.event(source="gateway:someone"), gateway.payment("no key")
    )
    assert response.status_code == 202
    body = response.json()
    assert (body["accepted"], body["duplicates"], body["rejected"]) == (1, 0, 4)
    assert [(error["index"], error["code"]) for error in body["errors"]] == [
        (0, "time_out_of_range"),
        (2, "malformed"),
        (3, "source_mismatch"),
        (4, "invalid_data"),
    ]
    assert body["errors"][0]["id"] == late["id"]
    assert rows("SELECT id FROM telemetry_events WHERE source = %s", gateway.source) == [(good["id"],)]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"data": {"a": "b\u0000c"}}, "malformed"),
        ({"data": {"b\u0000c": 1}}, "malformed"),
        ({"data": "\\\u0000"}, "malformed"),
        ({"id": "a\u0000"}, "malformed"),
        ({"subject": "line\nbreak"}, "malformed"),
        ({"extension": "\u0000"}, "malformed"),
        ({"time": None}, "malformed"),
        ({"time": "2026-11-21T00:00:00"}, "malformed"),
        ({"time": "yesterday"}, "malformed"),
        ({"time": ago(days=8)}, "time_out_of_range"),
        # Far enough ahead for a session that comes to this test hours after it was collected.
        ({"time": ago(days=-2)}, "time_out_of_range"),
        ({"time": "9999-12-31T23:59:59Z"}, "time_out_of_range"),
        ({"time": "0001-01-01T00:00:00Z"}, "time_out_of_range"),
        ({"specversion": "0.3"}, "malformed"),
        ({"id": ""}, "malformed"),
        ({"id": 7}, "malformed"),
        ({"id": "x" * 256}, "malformed"),
        ({"type": ""}, "malformed"),
        ({"source": "gateway:"}, "malformed"),
        ({"source": "bank:1"}, "malformed"),
        ({"data_base64": "AA=="}, "malformed"),
        ({"data": "x" * DATA_BYTES_MAX}, "too_large"),
    ],
)
def test_an_event_that_breaks_a_rule_is_refused(
    gateway: Sender, rows: Rows, change: dict[str, Any], code: str
) -> None:
    assert refusal(gateway.send(gateway.event() | change))[0] == code
    assert rows(COUNT, gateway.source) == [(0,)]


def test_a_backslash_before_u0000_is_only_text(gateway: Sender, rows: Rows) -> None:
    event = gateway.event(data="\\u0000")
    assert gateway.send(event).status_code == 202
    assert rows("SELECT data FROM telemetry_events WHERE id = %s", event["id"]) == [("\\u0000",)]


@pytest.mark.parametrize(
    "data",
    [
        b'"\\ud800"',
        b'"\\udc00"',
        b"1e400",
        b"[" * 5_000 + b"]" * 5_000,
        b'"\xff"',
        b"{",
        b"NaN",
        b"9" * 5_000,
    ],
)
def test_json_that_postgresql_could_not_hold_never_reaches_it(
    gateway: Sender, rows: Rows, data: bytes
) -> None:
    event = json.dumps(gateway.event(data="@")).encode().replace(b'"@"', data)
    assert gateway.post(event, EVENT_CONTENT_TYPE).status_code == 400
    assert rows(COUNT, gateway.source) == [(0,)]


def test_extreme_but_valid_json_is_stored(gateway: Sender, rows: Rows) -> None:
    event = (
        json.dumps(gateway.event(data="@"))
        .encode()
        .replace(b'"@"', b"[1e308,-0.0,1e-20000,%b]" % (b"9" * 100))
    )
    assert gateway.post(event, EVENT_CONTENT_TYPE).status_code == 202
    assert rows(
        "SELECT jsonb_array_length(data) FROM telemetry_events WHERE source = %s", gateway.source
    ) == [(4,)]


@pytest.mark.parametrize(
    "data",
    [
        {"agent": "not a key"},
        {"amount": "-1"},
        {"amount": "1.5"},
        {"amount": str(2**64)},
        {"charged": "1501"},
        {"http_status": "200"},
        {"latency_ms": -1},
        {"route": "x" * 256},
    ],
)
def test_a_payment_with_a_wrong_field_is_refused(gateway: Sender, rows: Rows, data: dict[str, Any]) -> None:
    event = gateway.payment(**{"agent": SigningKey.generate().pubkey, **data})
    assert refusal(gateway.send(event))[0] == "invalid_data"
    assert rows(COUNT, gateway.source) == [(0,)]


def test_a_payment_for_another_gateway_is_refused(gateway: Sender, rows: Rows) -> None:
    event = gateway.payment(SigningKey.generate().pubkey, gateway=SigningKey.generate().pubkey)
    assert refusal(gateway.send(event))[0] == "source_mismatch"
    assert rows(COUNT, gateway.source) == [(0,)]


def test_only_gateways_report_payments(agent: Sender, rows: Rows) -> None:
    assert refusal(agent.send(agent.payment(agent.key.pubkey)))[0] == "source_mismatch"
    assert agent.send(agent.event()).status_code == 202
    assert rows(COUNT, agent.source) == [(1,)]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{}", "application/cloudevents-batch+json"),
        (b"[", "application/cloudevents-batch+json"),
        (b"[]", "application/cloudevents-batch+avro"),
        (b"[]", "application/cloudevents-batch+json; charset=latin-1"),
        (b"[]", "application/json"),
        (b"<a/>", "application/cloudevents+xml"),
    ],
)
def test_what_is_not_cloudevents_is_a_400(gateway: Sender, body: bytes, content_type: str) -> None:
    response = gateway.post(body, content_type)
    assert (response.status_code, response.json()["code"]) == (400, "malformed")
    assert response.headers["content-type"] == "application/problem+json"


def test_too_many_events_are_a_413(gateway: Sender, rows: Rows) -> None:
    response = gateway.send(*(gateway.event() for _ in range(EVENTS_MAX + 1)))
    assert (response.status_code, response.json()["code"]) == (413, "too_many_events")
    assert rows(COUNT, gateway.source) == [(0,)]


def test_a_body_over_the_limit_is_a_413(gateway: Sender) -> None:
    response = gateway.post(b" " * (4 * 1024 * 1024 + 1))
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


def test_a_full_batch_is_stored_in_whole(gateway: Sender, rows: Rows) -> None:
    response = gateway.send(*(gateway.payment(SigningKey.generate().pubkey) for _ in range(EVENTS_MAX)))
    assert response.json() == answer(accepted=EVENTS_MAX)
    assert rows("SELECT count(*) FROM payment_authorized WHERE source = %s", gateway.source) == [
        (EVENTS_MAX,)
    ]


def test_rows_land_in_the_partition_of_the_events_day(gateway: Sender, rows: Rows) -> None:
    old = ago(days=6)
    payment = gateway.payment(SigningKey.generate().pubkey) | {"time": old}
    assert gateway.send(payment).json() == answer(accepted=1)
    day = old[:10].replace("-", "")
    for table in ("telemetry_events", "payment_authorized"):
        query = f"SELECT tableoid::regclass::text FROM {table} WHERE source = %s"
        assert rows(query, gateway.source) == [(f"{table}_p{day}",)]


def test_other_paths_and_methods(receiver: Server) -> None:
    with httpx.Client(base_url=receiver.url, **LOCAL) as client:
        assert client.get("/v1/ingest").status_code == 405
        assert client.post("/v1/other").status_code == 404
        assert "machpay_receiver_events_total" in client.get("/metrics").text


def test_health_names_every_component(receiver: Server) -> None:
    body = httpx.get(f"{receiver.url}/health", **LOCAL).json()
    assert (body["status"], body["service"]) == ("ok", "receiver")
    assert {name: part["status"] for name, part in body["components"].items()} == {
        "database": "ok",
        "redis": "ok",
        "buffer": "ok",
        "partitions": "ok",
    }
