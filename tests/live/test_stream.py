"""Streams over real HTTP: a uvicorn process with Channels, Redis, sessions and the real routes."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import redis
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import Client

from apps.core import live
from apps.telemetry.live.exchange import QUEUE_MESSAGES
from machpay.protocol.keys import SigningKey
from tests.support.cable import Cable
from tests.support.http import LOCAL
from tests.support.servers import Server, uvicorn

pytestmark = pytest.mark.django_db(transaction=True)

APP = "machpay_site.asgi:application"
HEARTBEAT_S = 0.5
Event = dict[str, Any]


@pytest.fixture(scope="module")
def server(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {"LIVE_HEARTBEAT_S": str(HEARTBEAT_S), "LIVE_STREAMS_PER_ADDRESS": "4"}
    with uvicorn(APP, tmp_path_factory.mktemp("live"), environment) as running:
        yield running


class Stream:
    """A reader of one stream. `next` skips heartbeats unless they are asked for."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()

    def next(self, *, heartbeats: bool = False) -> Event:
        event: Event = {}
        for line in self._lines:
            if line:
                name, _, value = line.partition(": ")
                event[name] = value
            elif "data" in event:
                event["data"] = json.loads(event["data"])
                if heartbeats or event["event"] != "heartbeat":
                    return event
                event = {}
            else:
                event = {}
        pytest.fail("the stream ended")


@contextlib.contextmanager
def watching(
    server: Server, topics: str | None = None, path: str = "/events", **headers: str
) -> Iterator[Stream]:
    """An open stream that is subscribed: its first heartbeat has come."""
    query = {} if topics is None else {"topics": topics}
    with (
        httpx.Client(**LOCAL) as client,
        client.stream("GET", server.url + path, params=query, headers=headers) as response,
    ):
        assert response.status_code == 200, response.read()
        stream = Stream(response)
        stream.next(heartbeats=True)
        yield stream


def _health(server: Server) -> Any:
    return httpx.get(f"{server.url}/health", **LOCAL).json()


def refused(
    server: Server, topics: str, cookies: dict[str, str] | None = None, method: str = "GET"
) -> tuple[int, str]:
    with httpx.Client(**LOCAL, cookies=cookies) as client:
        response = client.request(method, f"{server.url}/events", params={"topics": topics})
    assert response.headers["content-type"] == "application/problem+json"
    return response.status_code, response.json()["code"]


@pytest.mark.parametrize("path", ["/events", "/v1/events", "/v1/telemetry/live"])
def test_published_events_are_delivered(server: Server, path: str) -> None:
    with watching(server, "ticker", path) as stream:
        assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.response.headers["cache-control"] == "no-store, no-transform"
        live.publish("ticker", "payment", {"amount_atomic": "7"})
        event = stream.next()
        assert (event["event"], event["data"]) == ("payment", {"amount_atomic": "7"})
        assert event["id"]


def test_only_the_topics_that_were_asked_for(server: Server) -> None:
    with watching(server, "stats") as stream:
        live.publish("ticker", "payment", {"n": 1})
        live.publish("stats", "stats", {"n": 2})
        assert stream.next()["data"] == {"n": 2}


def test_both_public_topics_by_default(server: Server) -> None:
    with watching(server) as stream:
        live.publish("stats", "stats", {"n": 1})
        live.publish("ticker", "payment", {"n": 2})
        assert [stream.next()["data"]["n"] for _ in range(2)] == [1, 2]


def test_heartbeats_without_ids_keep_the_connection_alive(server: Server) -> None:
    with watching(server, "ticker") as stream:
        for _ in range(2):
            event = stream.next(heartbeats=True)
            assert set(event) == {"event", "data"}
            assert event["event"] == "heartbeat"


def test_a_reader_goes_on_after_the_last_event_it_saw(server: Server) -> None:
    with watching(server, "ticker") as stream:
        for number in range(3):
            live.publish("ticker", "payment", {"n": number})
        first = stream.next()
    for number in range(3, 6):
        live.publish("ticker", "payment", {"n": number})
    with watching(server, "ticker", **{"Last-Event-ID": first["id"]}) as stream:
        assert [stream.next()["data"]["n"] for _ in range(5)] == [1, 2, 3, 4, 5]


def test_a_reader_with_an_unknown_id_is_told_of_the_gap(server: Server) -> None:
    with watching(server, "ticker", **{"Last-Event-ID": "from before"}) as stream:
        assert stream.next() == {"event": "gap", "data": {}}
        live.publish("ticker", "payment", {"n": 1})
        assert stream.next()["data"] == {"n": 1}


def test_a_lost_redis_is_a_gap_and_then_events_come_again(django_db_setup: None, tmp_path: Path) -> None:
    with (
        Cable(settings.REDIS_URL) as cable,
        uvicorn(APP, tmp_path, {"REDIS_URL": cable.url}) as server,
        watching(server, "ticker") as stream,
    ):
        cable.cut()
        while _health(server)["components"]["live"] == {"status": "ok", "hub": "reading"}:
            time.sleep(0.02)
        live.publish("ticker", "payment", {"n": "lost"})
        cable.mend()
        assert stream.next()["event"] == "gap"
        live.publish("ticker", "payment", {"n": 1})
        assert stream.next()["data"] == {"n": 1}


def test_a_redis_that_is_slow_to_answer_the_first_stream_is_a_gap(
    django_db_setup: None, tmp_path: Path
) -> None:
    with Cable(settings.REDIS_URL) as cable, uvicorn(APP, tmp_path, {"REDIS_URL": cable.url}) as server:
        cable.stall()
        with watching(server, "ticker") as stream:
            live.publish("ticker", "payment", {"n": "lost"})
            cable.mend()
            assert stream.next()["event"] == "gap"
            live.publish("ticker", "payment", {"n": 1})
            assert stream.next()["data"] == {"n": 1}


def test_a_reader_that_stops_reading_costs_nobody_else(server: Server) -> None:
    """Its socket fills up, its queue stays bounded; others get everything; it learns of the gap when it reads on."""
    count, filler = 2_500, "x" * 8_000
    host, port = urlsplit(server.url).hostname, urlsplit(server.url).port
    with socket.create_connection((host, port)) as stopped, watching(server, "ticker") as stream:
        stopped.sendall(b"GET /events?topics=ticker HTTP/1.1\r\nHost: x\r\n\r\n")
        while b"event: heartbeat" not in stopped.recv(4096):
            pass
        with redis.Redis.from_url(settings.REDIS_URL) as client:
            for start in range(0, count, 100):
                with client.pipeline(transaction=False) as pipeline:
                    for number in range(start, start + 100):
                        pipeline.publish(
                            "live:ticker", live.encode("payment", {"n": number, "filler": filler})
                        )
                    pipeline.execute()
                assert [stream.next()["data"]["n"] for _ in range(100)] == list(range(start, start + 100))
        last = b'{"n":%d,' % (count - 1)
        received = bytearray()
        while last not in received[-65536:]:
            received += stopped.recv(32768)
    assert received.count(b"event: gap\n") == 1
    delivered = received.count(b"event: payment\n")
    assert QUEUE_MESSAGES <= delivered < count


@pytest.mark.parametrize(
    "topic", ["everything", "vendor:", "vendor:0OIl", "user:0", "user:x", "ticker;stats", "live:ticker"]
)
def test_an_unknown_topic_is_a_400(server: Server, topic: str) -> None:
    assert refused(server, topic) == (400, "unknown_topic")
    assert refused(server, f"ticker,{topic}") == (400, "unknown_topic")


def test_more_topics_than_a_stream_carries_are_a_400(server: Server) -> None:
    topics = ",".join(f"user:{number}" for number in range(1, 34))
    assert refused(server, topics) == (400, "unknown_topic")


def session_of(**fields: Any) -> tuple[int, dict[str, str]]:
    user = get_user_model().objects.create_user(username=fields.pop("username"), **fields)
    client = Client()
    client.force_login(user)
    return user.pk, {"sessionid": client.cookies["sessionid"].value}


def test_private_topics_need_a_right(server: Server) -> None:
    vendor = f"vendor:{SigningKey.generate().pubkey}"
    assert refused(server, f"ticker,{vendor}") == (401, "sign_in_required")
    pk, cookies = session_of(username="somebody")
    assert refused(server, vendor, cookies) == (404, "topic_not_found")
    assert refused(server, f"user:{pk + 1}", cookies) == (404, "topic_not_found")


def test_staff_watches_any_topic_and_users_their_own(server: Server) -> None:
    vendor = f"vendor:{SigningKey.generate().pubkey}"
    _, staff = session_of(username="staff", is_staff=True)
    pk, own = session_of(username="owner")
    for topic, cookies in ((vendor, staff), (f"user:{pk}", own)):
        with watching(server, topic, Cookie=f"sessionid={cookies['sessionid']}") as stream:
            live.publish(topic, "alert", {"for": topic})
            assert stream.next()["data"] == {"for": topic}


def test_an_address_has_a_limited_number_of_streams(server: Server) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            watch_when_free(server, stack)
        assert refused(server, "ticker") == (429, "too_many_streams")
    with contextlib.ExitStack() as stack:
        watch_when_free(server, stack)


def watch_when_free(server: Server, stack: contextlib.ExitStack) -> None:
    """Open a stream as soon as the server has noticed that an earlier one was closed."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(AssertionError):
            stack.enter_context(watching(server, "ticker"))
            return
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_stream_is_read_with_get(server: Server) -> None:
    assert refused(server, "ticker", method="POST") == (405, "method_not_allowed")
