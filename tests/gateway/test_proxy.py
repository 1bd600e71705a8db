"""The proxy over real sockets: the handshake, what is forwarded, what comes back."""

import asyncio
import gzip
import time
from collections.abc import Callable
from typing import Any

import pytest

from machpay.protocol import x402
from machpay.protocol.keys import SigningKey
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.requests import request_hash, route_hash
from tests.gateway.conftest import Answer, RunningGateway, eventually
from tests.gateway.factories import PRICE, network
from tests.gateway.network_standin import NetworkStandIn
from tests.gateway.servers import Upstream

START = Callable[..., Any]


def receipt(answer: Answer) -> SignedReceipt:
    signed = SignedReceipt.from_json(answer.response.extra["receipt"])
    assert signed.is_signed_by(SigningKey(b"g" * 32).public)
    return signed


class TestChallenge:
    async def test_an_unpaid_request_gets_the_price_and_never_reaches_the_upstream(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        answer = await gateway.get("/paid?secret=1")
        assert answer.status == 402
        assert answer.headers["Cache-Control"] == "no-store"
        required = answer.required
        assert x402.decode_required(answer.headers[x402.REQUIRED_HEADER]).error == "payment_required"
        assert answer.json() == answer.json()
        assert required.resource.url == gateway.url + "/paid"
        assert required.resource.description == "One answer"
        (offer,) = required.accepts
        net = network()
        assert (offer.scheme, offer.network, offer.amount) == ("machpay-bond", net.caip2, "1000")
        assert (offer.asset, offer.max_timeout_seconds) == (str(net.mint), 60)
        assert offer.pay_to == str(gateway.settings.vendor)
        assert offer.extra == {
            "programId": str(net.program_id),
            "domain": str(net.domain),
            "gateway": gateway.settings.key.pubkey,
            "intentVersion": 1,
            "requestHash": request_hash("GET", "/paid?secret=1").hex(),
            "binding": "request",
        }
        assert upstream.seen == []

    async def test_the_body_repeats_the_header(self, gateway: RunningGateway) -> None:
        answer = await gateway.get("/paid")
        assert x402.encode_header(answer.required) == answer.headers[x402.REQUIRED_HEADER]
        assert (
            x402.decode_required(answer.headers[x402.REQUIRED_HEADER]).accepts[0].extra
            == (answer.json()["accepts"][0]["extra"])
        )

    async def test_the_hash_covers_the_body_of_the_unpaid_request(self, gateway: RunningGateway) -> None:
        answer = await gateway.request("POST", "/paid", data=b"question")
        assert (
            answer.required.accepts[0].extra["requestHash"]
            == request_hash("POST", "/paid", b"question").hex()
        )

    async def test_an_empty_query_is_part_of_the_target(self, gateway: RunningGateway) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rsplit(":", 1)[1]))
        writer.write(b"GET /paid? HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
        header = next(line for line in text.split("\r\n") if line.startswith("payment-required: "))
        required = x402.decode_required(header.split(": ", 1)[1])
        assert required.accepts[0].extra["requestHash"] == request_hash("GET", "/paid?").hex()

    @pytest.mark.parametrize(("size", "binding"), [(256 * 1024, "request"), (256 * 1024 + 1, "route")])
    async def test_large_bodies_are_bound_by_their_route(
        self, gateway: RunningGateway, size: int, binding: str
    ) -> None:
        body = b"x" * size
        answer = await gateway.request("POST", "/paid", data=body)
        extra = answer.required.accepts[0].extra
        bound = request_hash("POST", "/paid", body) if binding == "request" else route_hash("POST", "/paid")
        assert (extra["binding"], extra["requestHash"]) == (binding, bound.hex())

    async def test_a_route_can_demand_that_the_body_is_covered(
        self, start_gateway: START, upstream: Upstream
    ) -> None:
        schema = 'input_schema = { type = "object", required = ["q"] }'
        route = f'[[routes]]\nmethod = "POST"\npath = "/bound"\nprice_atomic = 1000\nbinding = "request"\n{schema}'
        gateway = await start_gateway(routes=route)
        assert (await gateway.request("POST", "/bound", data=b"x" * 256 * 1024)).status == 402
        payer = gateway.payer()
        headers = payer.headers(payer.intent("/bound", method="POST", bound_to=route_hash("POST", "/bound")))
        answer = await gateway.request("POST", "/bound", data=b"x" * (256 * 1024 + 1), headers=headers)
        assert (answer.status, answer.json()["code"]) == (413, "body_too_large")
        assert upstream.seen == []
        (endpoint,) = (await gateway.get("/machpay.json")).json()["endpoints"]
        assert endpoint["input_schema"] == {"type": "object", "required": ["q"]}

    async def test_the_header_stays_below_8_kb_for_any_path(self, gateway: RunningGateway) -> None:
        answer = await gateway.get("/strict/" + "a" * 7_000)
        assert answer.status == 402
        assert len(answer.headers[x402.REQUIRED_HEADER]) < 8 * 1024
        assert answer.required.resource.url == gateway.url + "/strict/"

    async def test_head_on_a_priced_route_is_402_even_with_a_payment(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        payer = gateway.payer()
        answer = await gateway.request("HEAD", "/paid", headers=payer.pay(method="HEAD"))
        assert answer.status == 402
        assert x402.decode_required(answer.headers[x402.REQUIRED_HEADER]).accepts[0].amount == "1000"
        assert upstream.seen == []

    async def test_options_is_free_and_tells_browsers_what_they_may_send(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        answer = await gateway.request(
            "OPTIONS", "/paid", headers={"Access-Control-Request-Headers": "payment-signature, x-mine"}
        )
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST, HEAD, OPTIONS"
        assert answer.headers["Access-Control-Allow-Headers"] == "payment-signature, x-mine"
        exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
        assert exposed[:2] == ["PAYMENT-REQUIRED", "PAYMENT-RESPONSE"]
        assert {"MachPay-Repeated", "Retry-After", "Location", "X-Request-ID"} == set(exposed[2:])
        assert upstream.seen == []

    async def test_a_version_1_payment_gets_a_clear_answer(self, gateway: RunningGateway) -> None:
        answer = await gateway.get("/paid", headers={"X-PAYMENT": "eyJ4NDAyVmVyc2lvbiI6MX0="})
        assert answer.status == 400
        assert answer.json()["code"] == "x402_version"
        assert "PAYMENT-SIGNATURE" in answer.json()["detail"]

    @pytest.mark.parametrize(
        "header",
        ["x", "!!!!", "e30=", "W10=", "bnVsbA==", "eyJ4NDAyVmVyc2lvbiI6MX0=", "a" * 60_000, "eyJhIjoi/yJ9"],
    )
    async def test_a_malformed_header_is_400_and_never_an_error_of_ours(
        self, gateway: RunningGateway, header: str
    ) -> None:
        answer = await gateway.get("/paid", headers={x402.SIGNATURE_HEADER: header})
        # Header lines beyond what the HTTP parser takes end there, with the same status.
        assert answer.status == 400

    async def test_two_payment_headers_are_400(self, gateway: RunningGateway) -> None:
        payer = gateway.payer()
        name = x402.SIGNATURE_HEADER
        headers = [(name, payer.pay()[name]), (name, payer.pay()[name])]
        assert (await gateway.get("/paid", headers=headers)).status == 400


class TestPaid:
    async def test_a_paid_request_is_served_charged_and_receipted(
        self, gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
    ) -> None:
        payer = gateway.payer()
        intent = payer.intent("/paid?q=1", amount=5 * PRICE)
        answer = await gateway.get("/paid?q=1", headers=payer.headers(intent))
        assert answer.status == 200
        assert answer.json() == {"path": "/paid?q=1", "body": 0}
        assert answer.headers["Cache-Control"] == "private"
        response = answer.response
        assert (response.success, response.payer, response.transaction) == (True, payer.key.pubkey, "")
        assert (response.amount, response.network) == ("1000", network().caip2)
        assert response.extra["commitmentId"] == intent.digest.hex()
        assert response.extra["servedTotal"] == "1000"
        signed = receipt(answer).receipt
        assert (signed.digest, signed.http_status, signed.charged, signed.served_total) == (
            intent.digest,
            200,
            1000,
            1000,
        )
        await eventually(lambda: intent.digest.hex() in net.items, "the payment is delivered")
        item = net.items[intent.digest.hex()]
        assert (item["charged"], item["status"], item["seq"]) == ("1000", "charged", 1)

    async def test_the_event_names_the_payment(self, gateway: RunningGateway, net: NetworkStandIn) -> None:
        payer = gateway.payer()
        intent = payer.intent()
        await gateway.get("/paid", headers=payer.headers(intent))
        await eventually(lambda: bool(net.events), "the event is sent")
        (event,) = net.events
        assert (event["type"], event["id"]) == ("com.machpay.payment.authorized", intent.digest.hex())
        assert event["subject"] == payer.key.pubkey
        assert event["data"]["charged"] == "1000"
        assert (event["data"]["service"], event["data"]["route"]) == ("Test", "GET /paid")
        assert event["data"]["latency_ms"] > 0

    async def test_a_body_reaches_the_upstream_whole(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        payer = gateway.payer()
        body = b"question" * 1_000
        intent = payer.intent("/paid", method="POST", body=body)
        answer = await gateway.request("POST", "/paid", data=body, headers=payer.headers(intent))
        assert answer.status == 200
        assert upstream.seen[-1][3] == body

    async def test_a_large_body_is_streamed_and_bound_by_its_route(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        payer = gateway.payer()
        body = b"0123456789abcdef" * 64 * 1024
        intent = payer.intent("/paid", method="POST", bound_to=route_hash("POST", "/paid"))
        answer = await gateway.request("POST", "/paid", data=body, headers=payer.headers(intent))
        assert answer.status == 200
        assert upstream.seen[-1][3] == body

    async def test_many_payments_add_up(self, gateway: RunningGateway, net: NetworkStandIn) -> None:
        payers = [gateway.payer() for _ in range(4)]
        calls = [gateway.get("/paid", headers=payer.pay()) for _ in range(15) for payer in payers]
        answers = await asyncio.gather(*calls)
        assert {answer.status for answer in answers} == {200}
        await eventually(lambda: len(net.items) == 60, "all payments are delivered")
        assert net.charged == 60 * PRICE
        for payer in payers:
            assert await gateway.committed(payer) == 15 * PRICE
        assert [item["seq"] for item in net.items.values()] == list(range(1, 61))

    async def test_of_sixteen_simultaneous_intents_with_one_cumulative_one_is_served(
        self, gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
    ) -> None:
        payer = gateway.payer()
        headers = [payer.headers(payer.intent(cumulative=PRICE)) for _ in range(16)]
        answers = await asyncio.gather(*(gateway.get("/paid", headers=header) for header in headers))
        assert sorted(answer.status for answer in answers) == [200] + [402] * 15
        refused = [answer for answer in answers if answer.status == 402]
        assert {answer.required.error for answer in refused} == {"cumulative_too_low"}
        assert len(upstream.seen) == 1
        assert await gateway.committed(payer) == PRICE
        await eventually(lambda: net.charged == PRICE, "one charge is delivered")

    async def test_upstream_headers_for_caches_and_payments_are_replaced(
        self, gateway: RunningGateway
    ) -> None:
        payer = gateway.payer()
        answer = await gateway.get("/paid?mode=cached", headers=payer.pay("/paid?mode=cached"))
        assert answer.headers.getall("Cache-Control") == ["private"]
        assert answer.headers["X-Own"] == "kept"
        assert len(answer.headers.getall(x402.RESPONSE_HEADER)) == 1
        assert answer.response.success is True

    async def test_a_compressed_answer_arrives_as_it_was_sent(self, gateway: RunningGateway) -> None:
        payer = gateway.payer()
        target = "/paid?mode=gzip"
        answer = await gateway.get(target, headers=payer.pay(target))
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(answer.body) == b"compressed" * 100

    async def test_created_keeps_its_location(self, gateway: RunningGateway) -> None:
        payer = gateway.payer()
        target = "/paid?mode=status-201"
        answer = await gateway.get(target, headers=payer.pay(target))
        assert (answer.status, answer.headers["Location"]) == (201, "/else")
        assert answer.response.amount == "1000"

    async def test_what_the_upstream_sees(self, gateway: RunningGateway, upstream: Upstream) -> None:
        payer = gateway.payer()
        sent = {
            **payer.pay(),
            "X-PAYMENT": "old",
            "X-Mine": "kept",
            "Accept-Encoding": "br",
            "Connection": "keep-alive, X-Hop",
            "X-Hop": "dropped",
            "TE": "trailers",
            "Proxy-Authorization": "secret",
            "X-Forwarded-For": "6.6.6.6",
            "X-Original-URL": "/dear",
            "X-HTTP-Method-Override": "DELETE",
        }
        assert (await gateway.get("/paid", headers=sent)).status == 200
        seen = {name.lower(): value for name, value in upstream.seen[-1][2].items()}
        for name in (
            x402.SIGNATURE_HEADER.lower(),
            *("x-payment", "x-hop", "te", "proxy-authorization", "x-original-url", "x-http-method-override"),
        ):
            assert name not in seen
        assert seen["x-mine"] == "kept"
        assert seen["accept-encoding"] == "br"
        assert seen["x-forwarded-for"] == "127.0.0.1"
        assert seen["x-forwarded-proto"] == "http"
        assert seen["x-forwarded-host"] == gateway.url.removeprefix("http://")
        assert seen["host"] == upstream.url.removeprefix("http://")


class TestRefusals:
    async def refused(self, gateway: RunningGateway, answer: Answer) -> str:
        assert answer.status == 402
        response = answer.response
        assert (response.success, response.amount) == (False, "0")
        assert response.error_reason == answer.required.error
        assert answer.headers["Cache-Control"] == "no-store"
        return answer.required.error

    async def test_refusals_reach_the_client_with_their_code_and_move_nothing(
        self, gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
    ) -> None:
        payer = gateway.payer()
        served = payer.intent()
        assert (await gateway.get("/paid", headers=payer.headers(served))).status == 200
        past = int(time.time()) - 1
        cases = {
            "nonce_replayed": payer.headers(payer.intent(nonce=served.nonce)),
            "request_mismatch": payer.headers(payer.intent("/dear", price=5 * PRICE)),
            "invalid_signature": payer.headers(payer.intent(), signature=bytes(64)),
            "intent_expired": payer.headers(payer.intent(deadline=past)),
            "amount_too_low": payer.headers(payer.intent(amount=PRICE - 1)),
            "wrong_gateway": payer.headers(payer.intent(), gateway=SigningKey(b"o" * 32).public),
            "cumulative_too_low": payer.headers(payer.intent(cumulative=2 * PRICE - 1)),
        }
        for code, headers in cases.items():
            assert await self.refused(gateway, await gateway.get("/paid", headers=headers)) == code
            assert len(upstream.seen) == 1
            assert await gateway.committed(payer) == PRICE
        reasons = [code for code in cases if code != "nonce_replayed"]
        await eventually(
            lambda: {e["data"]["reason"] for e in net.events if "reason" in e["data"]} >= set(reasons),
            "events",
        )

    async def test_a_payment_signed_for_a_cheap_route_does_not_open_a_dear_one(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        payer = gateway.payer()
        cheap = payer.headers(payer.intent("/paid", amount=9 * PRICE, cumulative=9 * PRICE))
        assert await self.refused(gateway, await gateway.get("/dear", headers=cheap)) == "request_mismatch"
        lying = payer.headers(payer.intent("/dear", amount=PRICE), amount="5000")
        assert await self.refused(gateway, await gateway.get("/dear", headers=lying)) == "amount_too_low"
        assert upstream.seen == []

    async def test_a_changed_body_or_query_is_a_mismatch(self, gateway: RunningGateway) -> None:
        payer = gateway.payer()
        headers = payer.headers(payer.intent("/paid", method="POST", body=b"this"))
        answer = await gateway.request("POST", "/paid", data=b"that", headers=headers)
        assert await self.refused(gateway, answer) == "request_mismatch"
        answer = await gateway.get("/paid?x=2", headers=payer.pay("/paid?x=1"))
        assert await self.refused(gateway, answer) == "request_mismatch"

    async def test_a_total_that_is_too_low_is_corrected_in_both_places(self, gateway: RunningGateway) -> None:
        payer = gateway.payer()
        first = payer.intent()
        served = await gateway.get("/paid", headers=payer.headers(first))
        answer = await gateway.get("/paid", headers=payer.headers(payer.intent(cumulative=PRICE)))
        assert await self.refused(gateway, answer) == "cumulative_too_low"
        extra = answer.required.accepts[0].extra
        for fields in (extra, answer.response.extra):
            correction = x402.parse_correction(fields)
            assert correction is not None
            assert correction.committed_total == PRICE
            assert correction.voucher is not None
            assert correction.voucher.is_signed_by(payer.key.public)
            assert correction.voucher.cumulative == PRICE
            assert fields["receipt"] == served.response.extra["receipt"]
        assert len(answer.headers[x402.REQUIRED_HEADER]) < 8 * 1024
        # Following it works at once.
        assert (
            await gateway.get("/paid", headers=payer.headers(payer.intent(cumulative=2 * PRICE)))
        ).status == 200

    async def test_a_stranger_with_anothers_name_learns_nothing_of_its_total(
        self, gateway: RunningGateway
    ) -> None:
        payer = gateway.payer()
        assert (await gateway.get("/paid", headers=payer.pay())).status == 200
        forged = payer.headers(payer.intent(cumulative=0), signature=bytes(64))
        answer = await gateway.get("/paid", headers=forged)
        assert "committedTotal" not in answer.required.accepts[0].extra
        assert "committedTotal" not in answer.response.extra


class TestFree:
    async def test_free_routes_pass_both_ways_without_a_payment(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        answer = await gateway.request("POST", "/free?x=1", data=b"hello")
        assert (answer.status, answer.json()) == (200, {"path": "/free?x=1", "body": 5})
        assert x402.RESPONSE_HEADER not in answer.headers

    async def test_unlisted_paths_are_not_served(self, gateway: RunningGateway, upstream: Upstream) -> None:
        assert (await gateway.get("/other")).status == 404
        assert upstream.seen == []

    async def test_unlisted_paths_can_be_free(self, start_gateway: START) -> None:
        gateway = await start_gateway(upstream='unlisted = "free"')
        assert (await gateway.get("/other")).status == 200
        assert (await gateway.get("/paid")).status == 402
        assert (await gateway.request("DELETE", "/paid")).status == 405

    async def test_ambiguous_paths_are_refused(self, start_gateway: START, upstream: Upstream) -> None:
        gateway = await start_gateway(upstream='unlisted = "free"')
        for target in ("/free/../paid", "/free/%2e%2e/paid", "//paid", "/x%2fpaid"):
            assert (await gateway.get(target)).status == 400
        assert upstream.seen == []

    async def test_a_redirect_is_passed_on_untouched(self, gateway: RunningGateway) -> None:
        answer = await gateway.get("/free?mode=status-302")
        assert (answer.status, answer.headers["Location"]) == (302, "/else")

    async def test_a_body_above_the_bound_is_413(self, start_gateway: START, upstream: Upstream) -> None:
        gateway = await start_gateway(upstream="max_body_bytes = 1000")
        assert (await gateway.request("POST", "/free", data=b"x" * 1000)).status == 200
        assert (await gateway.request("POST", "/free", data=b"x" * 1001)).status == 413

        async def pieces() -> Any:
            for _ in range(11):
                yield b"x" * 100

        assert (await gateway.request("POST", "/free", data=pieces())).status == 413
        assert len(upstream.seen) == 1


class TestOwnPaths:
    async def test_health_names_every_component(self, gateway: RunningGateway, net: NetworkStandIn) -> None:
        await eventually(lambda: bool(net.heartbeats), "a heartbeat")
        answer = await gateway.get("/health")
        assert answer.status == 200
        body = answer.json()
        assert (body["status"], body["service"]) == ("ok", "gateway")
        parts = {"log", "delivery", "receiver", "heartbeat", "solvency", "changes", "registration"}
        assert set(body["components"]) == parts

    async def test_the_manifest_is_true_to_the_configuration(self, gateway: RunningGateway) -> None:
        manifest = (await gateway.get("/machpay.json")).json()
        assert manifest["gateway"] == gateway.settings.key.pubkey
        assert manifest["vendor"] == str(gateway.settings.vendor)
        assert manifest["network"] == network().caip2
        assert (manifest["name"], manifest["categories"]) == ("Test", ["test"])
        assert manifest["base_price_atomic"] == 1000
        assert manifest["x402"] == {"schemes": ["machpay-bond"]}
        assert manifest["endpoints"][0] == {
            "method": "GET",
            "path": "/paid",
            "price_atomic": 1000,
            "metered": False,
            "description": "One answer",
        }
        assert manifest["endpoints"][3]["path"] == "/strict/*"
        assert manifest["capabilities"] == ["streaming", "payment-look-up", "payment-identifier"]
        assert manifest["status"] == (await gateway.get("/health")).json()["status"]

    async def test_metrics_count_what_happened(self, gateway: RunningGateway) -> None:
        payer = gateway.payer()
        await gateway.get("/paid", headers=payer.pay())
        await gateway.get("/paid")
        text = (await gateway.get("/metrics")).body.decode()
        assert 'machpay_gateway_requests_total{kind="paid",route="GET /paid"} 1.0' in text
        assert 'machpay_gateway_requests_total{kind="unpaid",route="GET /paid"} 1.0' in text
        assert "machpay_gateway_charged_atomic_total 1000.0" in text

    async def test_a_payment_is_found_by_its_digest(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        payer = gateway.payer()
        path = "/.well-known/machpay/payments/"
        served, void = payer.intent(), payer.intent("/paid?mode=status-500")
        answer = await gateway.get("/paid", headers=payer.headers(served))
        await gateway.get("/paid?mode=status-500", headers=payer.headers(void))
        found = (await gateway.get(path + served.digest.hex())).json()
        assert (found["status"], found["receipt"]) == ("served", answer.response.extra["receipt"])
        assert (await gateway.get(path + void.digest.hex())).json()["status"] == "void"
        assert (await gateway.get(path + "00" * 32)).json()["status"] == "unknown"
        assert (await gateway.get(path + "zz")).status == 404

    async def test_own_paths_take_no_other_methods(self, gateway: RunningGateway, upstream: Upstream) -> None:
        assert (await gateway.request("POST", "/health")).status == 405
        assert upstream.seen == []
