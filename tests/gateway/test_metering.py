"""Metered prices: the upstream names the amount under a ceiling; streams name it behind themselves."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from machpay.protocol import x402
from machpay.protocol.offers import LOOKUP_PREFIX
from tests.gateway.conftest import RunningGateway, eventually
from tests.gateway.factories import PRICE, ROUTES
from tests.gateway.network_standin import NetworkStandIn
from tests.gateway.servers import Upstream

START = Callable[..., Any]
ID = "pay_0123456789abcdef"
METERED = (
    ROUTES
    + """
[[routes]]
path = "/metered"
price_atomic = 1000
metered = true

[[routes]]
path = "/asked"
price_atomic = 1000
metered = true
amount_url = "/usage/{digest}"
"""
)


@pytest.fixture
async def gateway(start_gateway: START) -> RunningGateway:
    running: RunningGateway = await start_gateway(routes=METERED)
    return running


async def test_the_offer_says_that_its_price_is_a_ceiling(gateway: RunningGateway) -> None:
    (offer,) = (await gateway.get("/metered")).required.accepts
    assert (offer.amount, offer.extra["metered"]) == ("1000", True)
    assert "metered" not in (await gateway.get("/paid")).required.accepts[0].extra
    manifest = (await gateway.get("/machpay.json")).json()
    metered = {e["path"]: e["metered"] for e in manifest["endpoints"]}
    assert (metered["/metered"], metered["/paid"]) == (True, False)
    assert "metered" in manifest["capabilities"]


@pytest.mark.parametrize(
    ("named", "charged"),
    [("250", 250), ("0", 0), ("1000", 1000), ("1001", 1000), ("9" * 30, 0), ("12.5", 0), ("-1", 0), ("", 0)],
)
async def test_a_named_amount_is_charged_up_to_the_ceiling_and_never_guessed(
    gateway: RunningGateway, net: NetworkStandIn, named: str, charged: int
) -> None:
    payer = gateway.payer()
    target = f"/metered?mode=metered&amount={named}"
    intent = payer.intent(target, amount=5 * PRICE)
    answer = await gateway.get(target, headers=payer.headers(intent))
    assert (answer.status, answer.body) == (200, b"counted")
    assert "MachPay-Amount" not in answer.headers
    assert (answer.response.success, answer.response.amount) == (True, str(charged))
    assert answer.response.extra["receipt"]["charged"] == str(charged)
    assert await gateway.committed(payer) == charged
    await eventually(lambda: intent.digest.hex() in net.items, "the payment is delivered")
    assert net.items[intent.digest.hex()]["charged"] == str(charged)


async def test_when_nothing_is_named_the_ceiling_is_charged(gateway: RunningGateway) -> None:
    payer = gateway.payer()
    answer = await gateway.get("/metered", headers=payer.pay("/metered"))
    assert answer.response.amount == "1000"


async def test_an_amount_on_a_route_that_is_not_metered_changes_nothing(gateway: RunningGateway) -> None:
    payer = gateway.payer()
    target = "/paid?mode=metered&amount=1"
    answer = await gateway.get(target, headers=payer.pay(target))
    assert answer.response.amount == "1000"
    assert "MachPay-Amount" not in answer.headers


async def test_an_answer_that_cost_nothing_was_served_and_keeps_its_identifier(
    gateway: RunningGateway, upstream: Upstream
) -> None:
    payer = gateway.payer()
    target = "/metered?mode=metered&amount=0"
    intent = payer.intent(target)
    first = await gateway.get(target, headers=payer.headers(intent, identifier=ID))
    second = await gateway.get(target, headers=payer.headers(payer.intent(target), identifier=ID))
    assert second.headers[x402.RESPONSE_HEADER] == first.headers[x402.RESPONSE_HEADER]
    assert len(upstream.seen) == 1
    assert (await gateway.get(LOOKUP_PREFIX + intent.digest.hex())).json()["status"] == "served"


async def test_the_upstream_is_told_which_payment_and_whose(
    gateway: RunningGateway, upstream: Upstream
) -> None:
    payer = gateway.payer()
    intent = payer.intent("/metered")
    forged = {"MachPay-Payment": "forged", "MachPay-Agent": "forged", "MachPay-Amount": "0"}
    await gateway.get("/metered", headers={**payer.headers(intent), **forged})
    await gateway.get("/free", headers=forged)
    paid, free = ({name.lower(): value for name, value in seen[2].items()} for seen in upstream.seen)
    assert (paid["machpay-payment"], paid["machpay-agent"]) == (intent.digest.hex(), payer.key.pubkey)
    assert "machpay-amount" not in paid
    assert not any(name.startswith("machpay-") for name in free)


class TestStreams:
    async def test_the_charge_is_known_at_the_end_and_found_by_the_look_up(
        self, gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
    ) -> None:
        payer = gateway.payer()
        target = "/metered?mode=trailer&amount=70"
        intent = payer.intent(target)
        headers = payer.headers(intent, identifier=ID)
        async with gateway.http.get(gateway.url + target, headers=headers) as answer:
            response = x402.decode_response(answer.headers[x402.RESPONSE_HEADER])
            assert (response.success, response.amount) == (True, "1000")
            look_up = LOOKUP_PREFIX + intent.digest.hex()
            assert response.extra == {
                "commitmentId": intent.digest.hex(),
                "servedTotal": "0",
                "pending": True,
                "lookUp": look_up,
            }
            assert await answer.content.readany() == b"first"
            # All of the ceiling is reserved while it runs, and nothing is said about the charge.
            assert await gateway.committed(payer) == PRICE
            found = (await gateway.get(look_up)).json()
            assert found.pop("remembers_s") >= 0
            assert found == {"digest": intent.digest.hex(), "status": "unknown", "in_flight": True}
            upstream.release.set()
            assert await answer.content.read() == b" second"
        # Who has seen the end finds the receipt.
        found = (await gateway.get(look_up)).json()
        assert (found["status"], found["in_flight"], found["receipt"]["charged"]) == ("served", False, "70")
        assert await gateway.committed(payer) == 70
        await eventually(lambda: intent.digest.hex() in net.items, "the payment is delivered")
        item = net.items[intent.digest.hex()]
        assert (item["charged"], item["receipt"]) == ("70", found["receipt"]["signature"])
        # The answer that is kept has the receipt at once.
        again = await gateway.get(target, headers=headers)
        assert (again.body, again.response.amount) == (b"first second", "70")
        assert again.response.extra["receipt"] == found["receipt"]

    async def test_a_stream_that_names_nothing_costs_the_ceiling(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        upstream.release.set()
        payer = gateway.payer()
        target = "/metered?mode=trailer"
        answer = await gateway.get(target, headers=payer.pay(target))
        assert answer.body == b"first second"
        assert await gateway.committed(payer) == PRICE

    async def test_a_stream_that_breaks_off_costs_nothing(
        self, gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
    ) -> None:
        payer = gateway.payer()
        target = "/metered?mode=broken"
        intent = payer.intent(target)
        async with gateway.http.get(gateway.url + target, headers=payer.headers(intent)) as answer:
            await answer.content.readany()
            upstream.release.set()
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.content.read()
        await eventually(lambda: intent.digest.hex() in net.items, "the payment is delivered")
        assert net.items[intent.digest.hex()]["status"] == "void"
        assert await gateway.committed(payer) == 0

    async def test_a_client_that_hangs_up_pays_what_the_upstream_names_at_the_end(
        self, gateway: RunningGateway, upstream: Upstream, net: NetworkStandIn
    ) -> None:
        payer = gateway.payer()
        target = "/metered?mode=trailer&amount=70"
        intent = payer.intent(target)
        async with gateway.http.get(gateway.url + target, headers=payer.headers(intent)) as answer:
            await answer.content.readany()
            answer.close()
        upstream.release.set()
        await eventually(lambda: intent.digest.hex() in net.items, "the payment is delivered")
        assert net.items[intent.digest.hex()]["charged"] == "70"

    async def test_who_hangs_up_on_a_stream_without_end_pays_its_ceiling(
        self,
        gateway: RunningGateway,
        upstream: Upstream,
        net: NetworkStandIn,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("machpay_gateway.exchange.DRAIN_S", 0.0)
        payer = gateway.payer()
        target = "/metered?mode=endless"
        intent = payer.intent(target)
        async with gateway.http.get(gateway.url + target, headers=payer.headers(intent)) as answer:
            await answer.content.readany()
            answer.close()
        await eventually(lambda: intent.digest.hex() in net.items, "the payment is delivered")
        assert net.items[intent.digest.hex()]["charged"] == "1000"

    async def test_a_crash_in_the_middle_makes_it_free(
        self, start_gateway: START, upstream: Upstream, net: NetworkStandIn
    ) -> None:
        gateway = await start_gateway(routes=METERED)
        payer = gateway.payer()
        target = "/metered?mode=trailer&amount=70"
        headers = payer.pay(target)
        async with gateway.http.get(gateway.url + target, headers=headers) as answer:
            await answer.content.readany()
            folder = gateway.settings.data_dir / "log"
            (segment,) = folder.glob("*.log")
            await asyncio.sleep(0.1)
            crashed = segment.read_bytes()
            upstream.release.set()
            await answer.content.read()
        await gateway.stop()
        for path in folder.glob("*.log"):
            path.unlink()
        segment.write_bytes(crashed)
        net.items.clear()
        await gateway.start()
        assert await gateway.committed(payer) == 0
        assert (await gateway.get(target, headers=headers)).required.error == "nonce_replayed"
        await eventually(lambda: bool(net.items), "the payment is delivered")
        (item,) = net.items.values()
        assert (item["status"], item["http_status"]) == ("void", 503)


class TestLookUp:
    async def test_the_amount_is_asked_for_by_the_payments_digest(
        self, gateway: RunningGateway, upstream: Upstream
    ) -> None:
        payer = gateway.payer()
        intent = payer.intent("/asked")
        upstream.usage[intent.digest.hex()] = {"amount_atomic": 33}
        answer = await gateway.get("/asked", headers=payer.headers(intent))
        assert answer.response.amount == "33"
        assert upstream.seen[-1][1] == f"/usage/{intent.digest.hex()}"

    @pytest.mark.parametrize(
        "usage", [500, 404, {"amount": 3}, {"amount_atomic": -1}, {"amount_atomic": 1.5}]
    )
    async def test_when_it_cannot_be_found_out_nothing_is_charged(
        self, gateway: RunningGateway, upstream: Upstream, usage: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("machpay_gateway.metering._PAUSE_S", 0.0)
        payer = gateway.payer()
        intent = payer.intent("/asked")
        upstream.usage[intent.digest.hex()] = usage
        answer = await gateway.get("/asked", headers=payer.headers(intent))
        assert (answer.status, answer.response.success, answer.response.amount) == (200, True, "0")
        assert json.loads(answer.body)["path"] == "/asked"
        assert await gateway.committed(payer) == 0

    async def test_a_header_needs_no_look_up(self, gateway: RunningGateway, upstream: Upstream) -> None:
        payer = gateway.payer()
        target = "/asked?mode=metered&amount=5"
        answer = await gateway.get(target, headers=payer.pay(target))
        assert answer.response.amount == "5"
        assert len(upstream.seen) == 1
