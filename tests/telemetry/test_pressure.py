"""The receiver when the database is slow, gone or back, when Redis is gone, and when it is killed itself."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from django.conf import settings

from devnet.services.ports import free_port
from machpay.protocol.events import BATCH_CONTENT_TYPE
from machpay.protocol.keys import SigningKey
from machpay.protocol.signed_requests import sign_request
from tests.support.cable import Cable
from tests.support.http import LOCAL
from tests.support.servers import Server, uvicorn
from tests.telemetry.conftest import RECEIVER, Rows
from tests.telemetry.senders import TARGET, Sender

pytestmark = pytest.mark.django_db

COUNT = "SELECT count(*) FROM telemetry_events WHERE source = %s"


@pytest.fixture
def small_receiver(database: psycopg.Connection, tmp_path: Path) -> Iterator[Server]:
    """Holds 50 events."""
    with uvicorn(RECEIVER, tmp_path, {"RECEIVER_BUFFER_ROWS": "50"}) as server:
        yield server


def events(sender: Sender, count: int) -> list[dict[str, Any]]:
    return [sender.payment(SigningKey.generate().pubkey) for _ in range(count)]


def health(server: Server) -> tuple[int, dict[str, str]]:
    response = httpx.get(f"{server.url}/health", **LOCAL)
    parts = {name: part["status"] for name, part in response.json()["components"].items()}
    return response.status_code, {"all": response.json()["status"], **parts}


def test_a_full_buffer_refuses_with_429_and_takes_more_later(
    small_receiver: Server, database_url: str, rows: Rows
) -> None:
    gateway = Sender(small_receiver.url)
    with ThreadPoolExecutor() as pool, psycopg.connect(database_url) as blocker:
        blocker.execute("LOCK TABLE telemetry_events IN ACCESS EXCLUSIVE MODE")
        waiting = pool.submit(gateway.send, *events(gateway, 50))
        while health(small_receiver)[1]["buffer"] != "degraded":
            assert not waiting.done()
        refused = gateway.send(*events(gateway, 1))
        assert (refused.status_code, refused.json()["code"]) == (429, "receiver_busy")
        assert int(refused.headers["retry-after"]) >= 1
        blocker.rollback()
        assert waiting.result().json()["accepted"] == 50
    assert rows(COUNT, gateway.source) == [(50,)]
    assert gateway.send(*events(gateway, 50)).json()["accepted"] == 50
    assert health(small_receiver)[1]["buffer"] == "ok"


def test_more_events_than_the_buffer_holds_are_never_half_stored(small_receiver: Server, rows: Rows) -> None:
    gateway = Sender(small_receiver.url)
    assert gateway.send(*events(gateway, 51)).status_code == 429
    assert rows(COUNT, gateway.source) == [(0,)]


def test_without_a_database_it_answers_503_and_then_recovers(
    database_url: str, rows: Rows, tmp_path: Path
) -> None:
    with Cable(database_url) as cable, uvicorn(RECEIVER, tmp_path, {"DATABASE_URL": cable.url}) as server:
        gateway = Sender(server.url)
        batch = events(gateway, 3)
        cable.cut()
        refused = gateway.send(*batch)
        assert (refused.status_code, refused.json()["code"]) == (503, "storage_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        status, parts = health(server)
        assert (status, parts["all"], parts["database"], parts["redis"]) == (503, "down", "down", "ok")
        cable.mend()
        while (response := gateway.send(*batch)).status_code == 503:
            pass
        assert response.json()["accepted"] == 3
        assert rows(COUNT, gateway.source) == [(3,)]
        while health(server)[1]["all"] != "ok":
            pass


def test_a_restarted_database_costs_no_request(
    receiver: Server, database: psycopg.Connection, rows: Rows
) -> None:
    gateway = Sender(receiver.url)
    assert gateway.send(*events(gateway, 1)).status_code == 202
    [(ended,)] = rows(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query LIKE 'COPY%%' OR query = 'COMMIT' AND pid <> pg_backend_pid()"
    )
    assert ended >= 1
    assert gateway.send(*events(gateway, 1)).json()["accepted"] == 1
    assert rows(COUNT, gateway.source) == [(2,)]


def test_without_redis_events_are_still_stored(
    database: psycopg.Connection, rows: Rows, tmp_path: Path
) -> None:
    environment = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0"}
    with uvicorn(RECEIVER, tmp_path, environment) as server:
        gateway = Sender(server.url)
        batch = events(gateway, 2)
        assert gateway.send(*batch).json()["accepted"] == 2
        assert gateway.send(*batch).json()["duplicates"] == 2
        assert rows(COUNT, gateway.source) == [(2,)]
        status, parts = health(server)
        assert (status, parts["all"], parts["redis"]) == (200, "degraded", "down")


def test_a_redis_that_hangs_holds_up_one_request_at_most(
    database: psycopg.Connection, rows: Rows, tmp_path: Path
) -> None:
    with Cable(settings.REDIS_URL) as cable, uvicorn(RECEIVER, tmp_path, {"REDIS_URL": cable.url}) as server:
        gateway = Sender(server.url)
        assert gateway.send(*events(gateway, 1)).status_code == 202
        cable.stall()
        # Less than Redis clients wait for an answer.
        with httpx.Client(trust_env=False, timeout=4) as impatient:
            for _ in range(20):
                body = json.dumps(events(gateway, 1)).encode()
                headers = {
                    "Content-Type": BATCH_CONTENT_TYPE,
                    **sign_request(gateway.key, "POST", TARGET, body),
                }
                assert impatient.post(server.url + TARGET, content=body, headers=headers).status_code == 202
        assert rows(COUNT, gateway.source) == [(21,)]
        assert health(server)[1]["redis"] == "down"
        cable.mend()
        while health(server)[1]["redis"] != "ok":
            pass


def test_one_event_that_the_database_refuses_costs_nobody_elses(
    receiver: Server, database: psycopg.Connection, rows: Rows
) -> None:
    """A constraint stands in for a value that our checks let through and PostgreSQL does not take."""
    gateway = Sender(receiver.url)
    batch = events(gateway, 8)
    poison = batch[5]["id"]
    statement = f"ALTER TABLE telemetry_events ADD CONSTRAINT poison CHECK (id <> '{poison}')"
    database.execute(statement.encode())
    try:
        response = gateway.send(*batch)
    finally:
        database.execute("ALTER TABLE telemetry_events DROP CONSTRAINT poison")
    assert response.status_code == 202
    assert (response.json()["accepted"], response.json()["rejected"]) == (7, 1)
    assert [(error["index"], error["id"], error["code"]) for error in response.json()["errors"]] == [
        (5, poison, "invalid_data")
    ]
    assert rows(COUNT, gateway.source) == [(7,)]
    assert rows("SELECT count(*) FROM payment_authorized WHERE source = %s", gateway.source) == [(7,)]


def test_kill_after_the_acknowledgement_loses_nothing(
    database: psycopg.Connection, receiver: Server, rows: Rows, tmp_path: Path
) -> None:
    """Senders go on until the receiver is killed under them; whatever was acknowledged is there, once."""
    acknowledged: list[str] = []
    sent: list[dict[str, Any]] = []
    enough = threading.Event()

    def send_until_killed(gateway: Sender) -> None:
        while True:
            batch = events(gateway, 20)
            sent.extend(batch)
            try:
                response = gateway.send(*batch)
            except httpx.HTTPError:
                return
            assert response.status_code == 202
            acknowledged.extend(event["id"] for event in batch)
            if len(acknowledged) >= 600:
                enough.set()

    with uvicorn(RECEIVER, tmp_path) as doomed, ThreadPoolExecutor() as pool:
        gateways = [Sender(doomed.url) for _ in range(4)]
        senders = [pool.submit(send_until_killed, gateway) for gateway in gateways]
        assert enough.wait(60)
        doomed.process.kill()
        for sender in senders:
            sender.result()
    sources = [gateway.source for gateway in gateways]
    stored = {id_ for (id_,) in rows("SELECT id FROM telemetry_events WHERE source = ANY(%s)", sources)}
    assert set(acknowledged) <= stored

    for gateway in gateways:
        gateway.receiver_url = receiver.url
        again = [event for event in sent if event["source"] == gateway.source]
        for start in range(0, len(again), 500):
            assert gateway.send(*again[start : start + 500]).status_code == 202
    for table in ("telemetry_events", "payment_authorized"):
        query = f"SELECT count(*), count(DISTINCT id) FROM {table} WHERE source = ANY(%s)"
        assert rows(query, sources) == [(len(sent), len(sent))]
