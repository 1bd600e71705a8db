"""The client's connection: what it may not do, and what every request is given."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from machpay.protocol import x402
from machpay.protocol.errors import MalformedError
from machpay.protocol.requests import request_hash, route_hash
from tests.gateway.conftest import RunningGateway, eventually
from tests.gateway.factories import PRICE
from tests.gateway.network_standin import NetworkStandIn
from tests.gateway.servers import Upstream

START = Callable[..., Any]


async def connect(gateway: RunningGateway) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", URL(gateway.url).port)


async def raw(gateway: RunningGateway, *parts: bytes) -> bytes:
    """Everything the gateway says to these bytes until it hangs up."""
    reader, writer = await connect(gateway)
    for part in parts:
        writer.write(part)
        await writer.drain()
    async with asyncio.timeout(30):
        said = await reader.read()
    writer.close()
    return said


def head(method: str, target: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def payment_lines(headers: dict[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers.items()]


class TestHeads:
    async def test_a_web_socket_is_refused_clearly_and_pays_nothing(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        payer = gateway.payer()
        lines = ("Connection: Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Version: 13")
        for target in ("/paid", "/free"):
            said = await raw(gateway, head("GET", target, *lines, *payment_lines(payer.pay())))
            assert said.startswith(b"HTTP/1.1 501 ")
            assert b'"code":"websocket_unsupported"' in said
        assert upstream.seen == []
        assert await gateway.committed(payer) == 0

    async def test_another_upgrade_is_answered_in_http_1_1(self, gateway: RunningGateway) -> None:
        said = await raw(gateway, head("GET", "/free", "Connection: Upgrade", "Upgrade: h2c"))
        assert said.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in said

    async def test_a_large_head_is_served_and_one_that_is_too_large_is_431(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        lines = [f"X-Long-{number}: {'y' * 6_000}" for number in range(1, 9)]
        said = await raw(gateway, head("GET", "/free", *lines, "Connection: close"))
        assert said.startswith(b"HTTP/1.1 200 ")
        # Sent so that the server reads it in parts, as a network would bring it.
        endless = [b"GET /free HTTP/1.1\r\nHost: x\r\n", *(b"X-More: " + b"y" * 8_000 + b"\r\n",) * 60]
        said = await raw(gateway, *endless)
        assert said.startswith(b"HTTP/1.1 431 ")
        # Also when all of it is there at once.
        whole = head("GET", "/free", *lines, *(f"X-Long-{number}: {'y' * 6_000}" for number in range(9, 17)))
        assert (await raw(gateway, whole)).startswith(b"HTTP/1.1 431 ")
        assert len(upstream.seen) == 1

    async def test_a_long_body_that_comes_with_its_head_makes_the_head_no_longer(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        body = b"z" * 150_000
        request = head("POST", "/free", f"Content-Length: {len(body)}", "Connection: close") + body
        assert (await raw(gateway, request)).startswith(b"HTTP/1.1 200 ")
        assert [received for *_, received in upstream.seen] == [body]

    @pytest.mark.parametrize(
        ("request_head", "status"),
        [
            (b"GET /free HTTP/1.1\r\n\r\n", b"400"),
            (b"GET /free HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"400"),
            (b"GET /free HTTP/1.0\r\nHost: x\r\nHost: x\r\n\r\n", b"400"),
            (b"GET /free HTTP/2.0\r\nHost: x\r\n\r\n", b"400"),
            (b"GET /free#/../paid HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
            (b"GET http://x/free#/../paid HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
            (
                b"POST /free HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                b"501",
            ),
        ],
    )
    async def test_what_the_upstream_could_take_for_something_else_is_refused(
        self, gateway: RunningGateway, upstream: Upstream, request_head: bytes, status: bytes
    ) -> None:
        assert (await raw(gateway, request_head)).startswith(b"HTTP/1.1 " + status + b" ")
        assert upstream.seen == []

    async def test_a_head_that_does_not_come_is_408(self, start_gateway: START) -> None:
        gateway = await start_gateway(sections="[limits]\nhead_timeout_s = 0.2")
        assert (await raw(gateway, b"GET /free HT")).startswith(b"HTTP/1.1 408 ")
        assert await raw(gateway) == b""
        # Nor after an answer on the same connection.
        reader, writer = await connect(gateway)
        writer.write(head("GET", "/free"))
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"GET /fr")
        async with asyncio.timeout(30):
            rest = await reader.read()
        assert b"HTTP/1.1 408 " in rest
        writer.close()

    async def test_more_connections_than_allowed_are_503(self, start_gateway: START) -> None:
        gateway = await start_gateway(sections="[limits]\nmax_connections = 3")
        open_connections = [await connect(gateway) for _ in range(3)]
        for _, writer in open_connections:
            writer.write(head("GET", "/free"))
        for reader, _ in open_connections:
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
        said = await raw(gateway, head("GET", "/free"))
        assert said.startswith(b"HTTP/1.1 503 ")
        for _, writer in open_connections:
            writer.close()
            await writer.wait_closed()
        answer = await gateway.get("/free")
        assert answer.status == 200

    @pytest.mark.parametrize(
        "lines",
        [
            ("Content-Length: 5", "Transfer-Encoding: chunked"),
            ("Content-Length: 5", "Content-Length: 6"),
            ("Transfer-Encoding: chunked, identity",),
            ("Content-Length: -1",),
            ("Bad Name: x",),
        ],
    )
    async def test_what_two_servers_could_read_differently_is_refused(
        self, gateway: RunningGateway, upstream: Upstream, lines: tuple[str, ...]
    ) -> None:
        said = await raw(gateway, head("POST", "/free", *lines, "Connection: close") + b"0\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 400 ")
        assert upstream.seen == []

    async def test_trailers_decide_nothing(self, gateway: RunningGateway, upstream: Upstream) -> None:
        payer = gateway.payer()
        lines = payment_lines(payer.pay("/paid", method="POST", body=b"hello"))
        body = b"5\r\nhello\r\n0\r\n" + "\r\n".join([*lines, "X-Original-URL: /dear", "", ""]).encode()
        said = await raw(
            gateway, head("POST", "/paid", "Transfer-Encoding: chunked", "Connection: close"), body
        )
        assert said.startswith(b"HTTP/1.1 402 ")
        assert upstream.seen == []

    async def test_what_is_no_request_is_400_behind_the_answers_that_are_owed(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        nonsense = b"this is no request\r\n\r\n"
        assert (await raw(gateway, nonsense)).startswith(b"HTTP/1.1 400 ")
        said = await raw(gateway, head("GET", "/free?a=1") + nonsense + head("GET", "/free?b=2"))
        assert re.findall(rb"HTTP/1.1 \d+|/free[^\"]*", said) == [b"HTTP/1.1 200", b"/free?a=1"]
        said = await raw(gateway, head("POST", "/paid", "Transfer-Encoding: chunked") + b"no size\r\n")
        assert re.findall(rb"HTTP/1.1 \d+", said) == [b"HTTP/1.1 400"]
        assert len(upstream.seen) == 1

    async def test_a_whole_address_as_target_is_its_path(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        said = await raw(gateway, head("GET", "http://x/free?a=1", "Connection: close"))
        assert said.startswith(b"HTTP/1.1 200 ")
        for target in ("*", "x:443"):
            said = await raw(gateway, head("GET", target, "Connection: close"))
            assert said.startswith(b"HTTP/1.1 40")
        assert [seen[1] for seen in upstream.seen] == ["/free?a=1"]

    async def test_http_1_0_and_pipelined_requests_are_served(self, gateway: RunningGateway) -> None:
        said = await raw(gateway, b"GET /free HTTP/1.0\r\nHost: x\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 200 ")
        said = await raw(gateway, head("GET", "/free?a=1"), head("GET", "/free?b=2", "Connection: close"))
        assert re.findall(rb'"/free[^"]*"', said) == [b'"/free?a=1"', b'"/free?b=2"']


class TestBodies:
    async def test_a_body_that_stops_arriving_is_408_and_pays_nothing(
        self, start_gateway: START, upstream: Upstream, net: NetworkStandIn
    ) -> None:
        gateway = await start_gateway(sections="[limits]\nbody_timeout_s = 0.2")
        payer = gateway.payer()
        small = payment_lines(payer.pay("/paid", method="POST", body=b"x" * 100))
        said = await raw(gateway, head("POST", "/paid", "Content-Length: 100", *small), b"x" * 50)
        assert said.startswith(b"HTTP/1.1 408 ")
        # One that was forwarded already, because only its beginning decides.
        intent = payer.intent("/paid", method="POST", bound_to=route_hash("POST", "/paid"))
        large = payment_lines(payer.headers(intent))
        said = await raw(gateway, head("POST", "/paid", "Content-Length: 900000", *large), b"x" * 500_000)
        assert said.startswith(b"HTTP/1.1 408 ")
        await eventually(lambda: intent.digest.hex() in net.items, "the payment is delivered")
        assert net.items[intent.digest.hex()]["status"] == "void"
        assert await gateway.committed(payer) == 0

    async def test_the_refusal_of_a_large_body_arrives_while_it_is_still_sent(
        self, start_gateway: START
    ) -> None:
        gateway = await start_gateway(upstream="max_body_bytes = 1000")
        reader, writer = await connect(gateway)
        writer.write(head("POST", "/free", "Content-Length: 5000000"))
        writer.write(b"x" * 100_000)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 413 ")
        # What was announced may still be sent, and is thrown away. The connection is as good as before.
        writer.write(b"x" * 4_900_000 + head("GET", "/free?after"))
        await writer.drain()
        async with asyncio.timeout(30):
            assert await reader.readuntil(b"/free?after")
        writer.close()

    async def test_who_waits_to_be_asked_for_the_body_is_asked(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        reader, writer = await connect(gateway)
        writer.write(head("POST", "/free", "Content-Length: 5", "Expect: 100-continue"))
        async with asyncio.timeout(30):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"hello")
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert [seen[3] for seen in upstream.seen] == [b"hello"]

    async def test_a_declared_length_reaches_the_upstream(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        body = b"x" * 600_000
        assert (await gateway.request("POST", "/free", data=body)).status == 200

        async def pieces() -> Any:
            yield body

        assert (await gateway.request("POST", "/free", data=pieces())).status == 200
        first, second = ({k.lower(): v for k, v in seen[2].items()} for seen in upstream.seen)
        assert (first["content-length"], "transfer-encoding" in first) == ("600000", False)
        assert second["transfer-encoding"] == "chunked"
        assert [len(seen[3]) for seen in upstream.seen] == [600_000] * 2

    @pytest.mark.parametrize("target", ["/paid?mode=flood", "/free?mode=flood"])
    async def test_a_client_that_stops_reading_is_dropped_and_a_paid_answer_stays_charged(
        self, start_gateway: START, net: NetworkStandIn, target: str
    ) -> None:
        gateway = await start_gateway(sections="[limits]\nwrite_timeout_s = 0.3")
        payer = gateway.payer()
        intent = payer.intent(target)
        reader, writer = await connect(gateway)
        writer.write(head("GET", target, *payment_lines(payer.headers(intent))))
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200 ")
        await asyncio.sleep(1.5)
        async with asyncio.timeout(30):
            rest = await reader.read()
        writer.close()
        # What was on its way, and no sign of an end.
        assert len(rest) < 50_000_000
        assert not rest.endswith(b"0\r\n\r\n")
        if target.startswith("/paid"):
            await eventually(lambda: intent.digest.hex() in net.items, "the payment is delivered")
            assert net.items[intent.digest.hex()]["charged"] == str(PRICE)


class TestRequestIds:
    async def test_every_answer_has_one_and_the_upstream_gets_it(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        payer = gateway.payer()
        answers = [
            await gateway.get("/free"),
            await gateway.get("/paid", headers=payer.pay()),
            await gateway.get("/paid"),
            await gateway.get("/nothing"),
            await gateway.get("/health"),
        ]
        # One and our own, whatever the upstream says.
        ids = [answer.headers.getall("X-Request-ID") for answer in answers]
        assert all(len(found) == 1 and re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", found[0]) for found in ids)
        assert len({found[0] for found in ids}) == 5
        seen = [{k.lower(): v for k, v in request[2].items()}["x-request-id"] for request in upstream.seen]
        assert seen == [ids[0][0], ids[1][0]]

    @pytest.mark.parametrize(
        ("sent", "kept"), [("my.request-1_A", True), ("no spaces", False), ("x" * 65, False)]
    )
    async def test_a_clients_own_is_kept_if_it_is_one(
        self, gateway: RunningGateway, upstream: Upstream, sent: str, kept: bool
    ) -> None:
        answer = await gateway.get("/free", headers={"X-Request-ID": sent})
        assert (answer.headers["X-Request-ID"] == sent) is kept
        names = [name for name in upstream.seen[-1][2] if name.lower() == "x-request-id"]
        assert len(names) == 1


class TestProxies:
    async def test_a_stranger_is_not_believed(self, gateway: RunningGateway, upstream: Upstream) -> None:
        headers = {
            "X-Forwarded-For": "6.6.6.6",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "evil.example",
        }
        assert (await gateway.get("/paid", headers=headers)).required.resource.url == gateway.url + "/paid"
        await gateway.get("/free", headers=headers)
        seen = {name.lower(): value for name, value in upstream.seen[-1][2].items()}
        assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == ("127.0.0.1", "http")

    async def test_a_trusted_proxy_is(self, start_gateway: START, upstream: Upstream) -> None:
        gateway = await start_gateway(sections='[limits]\ntrusted_proxies = ["127.0.0.0/8"]')
        headers = {
            "X-Forwarded-For": "203.0.113.7, 127.0.0.9",
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "shop.example",
        }
        answer = await gateway.get("/paid", headers=headers)
        assert answer.required.resource.url == "https://shop.example/paid"
        await gateway.get("/free", headers=headers)
        seen = {name.lower(): value for name, value in upstream.seen[-1][2].items()}
        assert seen["x-forwarded-for"] == "203.0.113.7, 127.0.0.9, 127.0.0.1"
        assert (seen["x-forwarded-proto"], seen["x-forwarded-host"]) == ("https", "shop.example")

    async def test_the_rate_limit_is_per_client_and_comes_before_everything(
        self, start_gateway: START, upstream: Upstream
    ) -> None:
        gateway = await start_gateway(
            sections='[limits]\ntrusted_proxies = ["127.0.0.1"]\nrate_per_s = 0.001\nrate_burst = 2'
        )
        payer = gateway.payer()
        busy, other = {"X-Forwarded-For": "203.0.113.7"}, {"X-Forwarded-For": "203.0.113.8"}
        for _ in range(2):
            assert (await gateway.get("/free", headers=busy)).status == 200
        for headers in (busy, {**busy, **payer.pay()}, {**busy, x402.SIGNATURE_HEADER: "nonsense"}):
            answer = await gateway.get("/paid", headers=headers)
            assert (answer.status, answer.json()["code"]) == (429, "rate_limited")
            assert 500 <= int(answer.headers["Retry-After"]) <= 1_000
        assert (await gateway.get("/free", headers=other)).status == 200
        # Who watches the gateway is not shut out.
        assert (await gateway.get("/health", headers=busy)).status == 200
        assert len(upstream.seen) == 3


class TestAnyPaymentHeader:
    @settings(max_examples=150, deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=40),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "x402Version",
                            "accepted",
                            "payload",
                            "extensions",
                            "agent",
                            "nonce",
                            "payment-identifier",
                            "info",
                        ]
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        )
    )
    def test_parsing_never_fails_in_an_unexpected_way(self, value: Any) -> None:
        import base64
        import json

        header = base64.b64encode(json.dumps(value).encode())
        with pytest.raises(MalformedError):
            x402.parse_terms(x402.decode_payload(header).payload)

    async def test_every_changed_field_of_a_payment_is_400_or_402(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        import base64
        import json

        payer = gateway.payer()
        intent = payer.intent(bound_to=request_hash("GET", "/paid"))
        good = json.loads(base64.b64decode(payer.headers(intent)[x402.SIGNATURE_HEADER]))
        bad: list[Any] = [None, "", "x", -1, 2**64, 1.5, [], {}, True, "9" * 400, "é"]
        for part, fields in (
            ("payload", list(good["payload"])),
            ("accepted", ["scheme", "network", "asset"]),
        ):
            for name in fields:
                for value in bad:
                    changed = {**good, part: {**good[part], name: value}}
                    header = base64.b64encode(json.dumps(changed).encode()).decode()
                    answer = await gateway.get("/paid", headers={x402.SIGNATURE_HEADER: header})
                    assert answer.status in (400, 402), (part, name, value)
        assert upstream.seen == []
        assert await gateway.committed(payer) == 0
