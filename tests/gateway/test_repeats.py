"""Payments that are offered again: by the same bytes, or by another payment under the same identifier."""

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from machpay.protocol import x402
from machpay.protocol.identifiers import DECLARATION, EXTENSION
from machpay.protocol.keys import SigningKey
from machpay.protocol.receipts import SignedReceipt
from tests.gateway.conftest import Answer, RunningGateway, eventually
from tests.gateway.factories import PRICE
from tests.gateway.network_standin import NetworkStandIn
from tests.gateway.servers import Upstream

START = Callable[..., Any]
ID = "pay_0123456789abcdef"
REPEATED = "MachPay-Repeated"


def same(answer: Answer, first: Answer) -> None:
    """The same answer, payment and all."""
    assert (answer.status, answer.body) == (first.status, first.body)
    assert answer.headers[x402.RESPONSE_HEADER] == first.headers[x402.RESPONSE_HEADER]
    assert answer.headers[REPEATED] == "true"
    assert REPEATED not in first.headers


def gone(answer: Answer, receipt: object) -> None:
    """409 with the receipt of the payment that was made."""
    assert (answer.status, answer.json()["code"]) == (409, "response_gone")
    assert answer.json()["receipt"] == receipt
    assert answer.response.success is True
    assert answer.response.extra["receipt"] == receipt
    assert SignedReceipt.from_json(receipt).is_signed_by(SigningKey(b"g" * 32).public)


class TestSamePayment:
    async def test_the_same_bytes_get_the_same_answer_and_pay_once(
        self, gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
    ) -> None:
        payer = gateway.payer()
        for target in ("/paid", "/paid?mode=chunked", "/paid?mode=status-201"):
            headers = payer.pay(target)
            first = await gateway.get(target, headers=headers)
            for _ in range(2):
                again = await gateway.get(target, headers=headers)
                same(again, first)
                assert again.headers.get("Location") == first.headers.get("Location")
        assert len(upstream.seen) == 3
        assert await gateway.committed(payer) == 3 * PRICE
        await eventually(lambda: len(net.items) == 3, "the payments are delivered")
        assert net.charged == 3 * PRICE

    async def test_also_when_the_deadline_has_passed(
        self, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        payer = gateway.payer()
        headers = payer.pay()
        first = await gateway.get("/paid", headers=headers)
        later = SimpleNamespace(time=lambda: time.time() + 300, monotonic=time.monotonic)
        monkeypatch.setattr("machpay_gateway.admission.time", later)
        same(await gateway.get("/paid", headers=headers), first)
        assert (await gateway.get("/paid", headers=payer.pay())).required.error == "intent_expired"

    async def test_an_answer_for_nothing_is_repeated_too(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        payer = gateway.payer()
        target = "/paid?mode=status-402"
        headers = payer.pay(target)
        first = await gateway.get(target, headers=headers)
        assert (first.status, first.response.success) == (502, False)
        same(await gateway.get(target, headers=headers), first)
        assert len(upstream.seen) == 1

    async def test_a_client_that_hung_up_gets_its_answer_when_it_asks_again(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        payer = gateway.payer()
        target = "/paid?mode=slow"
        headers = payer.pay(target)
        call = asyncio.create_task(gateway.get(target, headers=headers))
        await eventually(lambda: len(upstream.seen) == 1, "the request reached the upstream")
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        again = asyncio.create_task(gateway.get(target, headers=headers))
        await asyncio.sleep(0.05)
        assert not again.done()
        upstream.release.set()
        answer = await again
        assert (answer.status, answer.json()) == (200, {"late": True})
        assert answer.headers[REPEATED] == "true"
        assert len(upstream.seen) == 1
        assert await gateway.committed(payer) == PRICE

    async def test_who_waits_too_long_for_a_payment_in_flight_gets_409(
        self, start_gateway: START, upstream: Upstream
    ) -> None:
        gateway = await start_gateway(sections="[responses]\nwait_s = 0.1")
        payer = gateway.payer()
        target = "/paid?mode=slow"
        headers = payer.pay(target)
        call = asyncio.create_task(gateway.get(target, headers=headers))
        await eventually(lambda: len(upstream.seen) == 1, "the request reached the upstream")
        answer = await gateway.get(target, headers=headers)
        assert (answer.status, answer.json()["code"]) == (409, "payment_pending")
        upstream.release.set()
        assert (await call).status == 200
        assert len(upstream.seen) == 1

    async def test_another_request_does_not_get_the_answer(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        payer = gateway.payer()
        headers = payer.pay("/paid", method="POST", body=b"this")
        assert (await gateway.request("POST", "/paid", data=b"this", headers=headers)).status == 200
        answer = await gateway.request("POST", "/paid", data=b"that", headers=headers)
        assert answer.required.error == "request_mismatch"
        assert len(upstream.seen) == 1

    async def test_who_does_not_know_the_signature_does_not_get_the_answer(
        self, gateway: RunningGateway
    ) -> None:
        payer = gateway.payer()
        intent = payer.intent()
        await gateway.get("/paid", headers=payer.headers(intent))
        answer = await gateway.get("/paid", headers=payer.headers(intent, signature=bytes(64)))
        assert answer.required.error == "invalid_signature"

    async def test_an_answer_that_is_too_long_to_keep_is_409_with_the_receipt(
        self, start_gateway: START, upstream: Upstream
    ) -> None:
        gateway = await start_gateway(sections="[responses]\nmax_bytes = 20")
        payer = gateway.payer()
        for target in ("/paid", "/paid?mode=chunked"):
            headers = payer.pay(target)
            first = await gateway.get(target, headers=headers)
            gone(await gateway.get(target, headers=headers), first.response.extra["receipt"])
        assert len(upstream.seen) == 2
        assert await gateway.committed(payer) == 2 * PRICE

    async def test_the_oldest_answers_go_when_memory_is_full(self, start_gateway: START) -> None:
        gateway = await start_gateway(sections="[responses]\ntotal_bytes = 3000")
        payer = gateway.payer()
        calls = [payer.pay() for _ in range(5)]
        firsts = [await gateway.get("/paid", headers=headers) for headers in calls]
        same(await gateway.get("/paid", headers=calls[-1]), firsts[-1])
        gone(await gateway.get("/paid", headers=calls[0]), firsts[0].response.extra["receipt"])


class TestIdentifier:
    async def test_the_extension_is_declared(self, gateway: RunningGateway) -> None:
        assert (await gateway.get("/paid")).required.extensions == {EXTENSION: DECLARATION}

    async def test_another_payment_under_it_gets_the_answer_and_costs_nothing(
        self, gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
    ) -> None:
        payer = gateway.payer()
        first_intent, second_intent = payer.intent(), payer.intent(amount=2 * PRICE, cumulative=3 * PRICE)
        first = await gateway.get("/paid", headers=payer.headers(first_intent, identifier=ID))
        second = await gateway.get("/paid", headers=payer.headers(second_intent, identifier=ID))
        same(second, first)
        assert second.response.extra["commitmentId"] == first_intent.digest.hex()
        assert len(upstream.seen) == 1
        assert await gateway.committed(payer) == PRICE
        # The new total was signed, so it counts as the highest, and the relayer learns of it.
        await eventually(lambda: second_intent.digest.hex() in net.items, "the second intent is delivered")
        item = net.items[second_intent.digest.hex()]
        assert (item["status"], item["charged"], item["http_status"]) == ("void", "0", 409)
        assert net.batches[-1].vouchers[0]["cumulative"] == str(3 * PRICE)
        found = (await gateway.get(f"/.well-known/machpay/payments/{second_intent.digest.hex()}")).json()
        assert found["status"] == "void"
        # What was signed for nothing covers the next call.
        assert (
            await gateway.get("/paid", headers=payer.headers(payer.intent(cumulative=PRICE)))
        ).status == 200

    async def test_the_same_bytes_under_it_are_taken_once(
        self, gateway: RunningGateway, net: NetworkStandIn
    ) -> None:
        payer = gateway.payer()
        await gateway.get("/paid", headers=payer.headers(payer.intent(), identifier=ID))
        headers = payer.headers(payer.intent(), identifier=ID)
        for _ in range(3):
            assert (await gateway.get("/paid", headers=headers)).headers[REPEATED] == "true"
        await eventually(lambda: len(net.items) == 2, "both intents are delivered")
        await gateway.stop()
        assert [item["charged"] for item in net.items.values()] == ["1000", "0"]

    async def test_what_is_taken_for_nothing_is_bounded(
        self, gateway: RunningGateway, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("machpay_gateway.payments.MAX_REPEATS", 3)
        payer = gateway.payer()
        statuses = [
            (await gateway.get("/paid", headers=payer.headers(payer.intent(), identifier=ID))).status
            for _ in range(6)
        ]
        assert statuses == [200] * 4 + [429] * 2
        assert len(upstream.seen) == 1
        assert await gateway.committed(payer) == PRICE

    async def test_another_request_under_it_is_a_conflict_and_moves_nothing(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        payer = gateway.payer()
        await gateway.get("/paid", headers=payer.headers(payer.intent(), identifier=ID))
        other = payer.headers(payer.intent("/paid?x=1"), identifier=ID)
        answer = await gateway.get("/paid?x=1", headers=other)
        assert (answer.status, answer.json()["code"]) == (409, "identifier_conflict")
        assert len(upstream.seen) == 1
        assert await gateway.committed(payer) == PRICE

    async def test_it_belongs_to_one_agent(self, gateway: RunningGateway, upstream: Upstream) -> None:
        for payer in (gateway.payer(), gateway.payer()):
            answer = await gateway.get("/paid", headers=payer.headers(payer.intent(), identifier=ID))
            assert (answer.status, answer.response.payer) == (200, payer.key.pubkey)
        assert len(upstream.seen) == 2

    async def test_a_stranger_does_not_get_an_answer_by_guessing_it(self, gateway: RunningGateway) -> None:
        payer = gateway.payer()
        await gateway.get("/paid", headers=payer.headers(payer.intent(), identifier=ID))
        forged = payer.headers(payer.intent(), identifier=ID, signature=bytes(64))
        assert (await gateway.get("/paid", headers=forged)).required.error == "invalid_signature"

    async def test_sixteen_payments_under_it_at_once_pay_once(
        self, gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
    ) -> None:
        payer = gateway.payer()
        target = "/paid?mode=slow"
        intents = [payer.intent(target) for _ in range(16)]
        calls = [
            asyncio.create_task(gateway.get(target, headers=payer.headers(intent, identifier=ID)))
            for intent in intents
        ]
        await eventually(lambda: len(upstream.seen) == 1, "the request reached the upstream")
        await asyncio.sleep(0.1)
        upstream.release.set()
        answers = await asyncio.gather(*calls)
        assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}
        assert len({answer.response.extra["commitmentId"] for answer in answers}) == 1
        assert len(upstream.seen) == 1
        assert await gateway.committed(payer) == PRICE
        await eventually(lambda: len(net.items) == 16, "every intent is delivered")
        assert net.charged == PRICE

    async def test_a_void_outcome_frees_it(self, gateway: RunningGateway, upstream: Upstream) -> None:
        payer = gateway.payer()
        target = "/paid?mode=flaky"
        first = await gateway.get(target, headers=payer.headers(payer.intent(target), identifier=ID))
        assert (first.status, first.response.success) == (503, False)
        second = await gateway.get(target, headers=payer.headers(payer.intent(target), identifier=ID))
        assert (second.status, second.response.amount) == (200, "1000")
        assert len(upstream.seen) == 2
        # And it may then even stand for another request.
        third = await gateway.get(target, headers=payer.headers(payer.intent(target), identifier=ID))
        same(third, second)
        assert await gateway.committed(payer) == PRICE

    async def test_who_waited_for_a_payment_that_failed_is_served_instead(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        payer = gateway.payer()
        target = "/paid?mode=slow_flaky"
        calls = [
            asyncio.create_task(
                gateway.get(target, headers=payer.headers(payer.intent(target), identifier=ID))
            )
            for _ in range(2)
        ]
        await eventually(lambda: len(upstream.seen) == 1, "the first is forwarded")
        upstream.release.set()
        statuses = sorted([(await call).status for call in calls])
        assert statuses == [200, 503]
        assert await gateway.committed(payer) == PRICE

    @pytest.mark.parametrize("value", ["short", "x" * 200, "not/allowed/characters", 7])
    async def test_a_malformed_one_is_400(self, gateway: RunningGateway, value: Any) -> None:
        payer = gateway.payer()
        payload = x402.decode_payload(payer.pay()[x402.SIGNATURE_HEADER])
        payload.extensions = {EXTENSION: {"info": {"required": False, "id": value}}}
        answer = await gateway.get("/paid", headers={x402.SIGNATURE_HEADER: x402.encode_header(payload)})
        assert (answer.status, answer.json()["code"]) == (400, "malformed_payment")


class TestAfterARestart:
    async def test_what_was_served_is_never_charged_again(
        self, gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
    ) -> None:
        payer = gateway.payer()
        named = payer.headers(payer.intent(), identifier=ID)
        unnamed = payer.pay()
        receipts = [
            (await gateway.get("/paid", headers=headers)).response.extra["receipt"]
            for headers in (named, unnamed)
        ]
        target = "/paid?mode=status-500"
        void = payer.headers(payer.intent(target), identifier="void_0123456789abcdef")
        await gateway.get(target, headers=void)
        await gateway.stop()
        await gateway.start()
        gone(await gateway.get("/paid", headers=named), receipts[0])
        gone(await gateway.get("/paid", headers=unnamed), receipts[1])
        again = payer.headers(payer.intent(), identifier=ID)
        gone(await gateway.get("/paid", headers=again), receipts[0])
        other = payer.headers(payer.intent("/paid?x=1"), identifier=ID)
        assert (await gateway.get("/paid?x=1", headers=other)).json()["code"] == "identifier_conflict"
        assert (await gateway.get(target, headers=void)).required.error == "nonce_replayed"
        assert len(upstream.seen) == 3
        assert await gateway.committed(payer) == 2 * PRICE
        freed = payer.headers(payer.intent(), identifier="void_0123456789abcdef")
        assert (await gateway.get("/paid", headers=freed)).response.amount == "1000"
