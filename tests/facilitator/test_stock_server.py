"""The stock FastAPI middleware of the `x402` package sells for bonds, through our facilitator."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException
from x402 import x402Client, x402ResourceServer
from x402.facilitator import x402Facilitator
from x402.http.clients.httpx import x402HttpxClient
from x402.http.middleware.fastapi import payment_middleware
from x402.schemas import PaymentPayload, PaymentRequirements

from devnet.services.ports import free_port
from machpay import MachPayClient, MachPayConfig
from machpay.chain.hosting import FacilitatorError
from machpay.client.errors import ResponseLostError
from machpay.protocol.keys import SigningKey
from machpay.protocol.x402 import RESPONSE_HEADER, SIGNATURE_HEADER, decode_response, encode_header
from machpay.x402 import (
    MachPayFacilitatorClient,
    MachPayFacilitatorScheme,
    MachPayScheme,
    MachPayServerScheme,
)
from tests.facilitator.conftest import PRICE, Facilitated
from tests.facilitator.test_facilitator import charged
from tests.sdk.relay import Relay
from tests.support.chain import LocalChain

pytestmark = pytest.mark.django_db


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """The app under uvicorn in a thread of its own."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, ws="none", loop="asyncio")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def store(shop: Facilitated) -> Iterator[str]:
    """A vendor's own server: `/quote` for PRICE, `/broken` that never succeeds, `/hello` for nothing."""
    scheme = asyncio.run(MachPayServerScheme.hosted(shop.url, shop.network, str(shop.vendor)))
    facilitator = MachPayFacilitatorClient(shop.url)
    server = x402ResourceServer(facilitator).register(shop.network.caip2, scheme)
    accepts = {
        "scheme": "machpay-bond",
        "payTo": str(shop.vendor),
        "price": f"${PRICE / 1_000_000}",
        "network": shop.network.caip2,
        "maxTimeoutSeconds": 60,
    }

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await facilitator.aclose()

    app = FastAPI(lifespan=lifespan)
    routes = {f"GET /{name}": {"accepts": accepts} for name in ("quote", "broken")}
    app.middleware("http")(payment_middleware(routes, server))

    @app.get("/quote")
    def quote(of: str = "") -> dict[str, Any]:
        return {"quote": 42, "of": of}

    @app.get("/broken")
    def broken() -> None:
        raise HTTPException(503)

    @app.get("/hello")
    def hello() -> dict[str, Any]:
        return {"hello": "world"}

    with serving(app) as url:
        yield url


def a_config(shop: Facilitated, local_chain: LocalChain) -> MachPayConfig:
    return MachPayConfig(
        key=shop.agent, network=shop.network, rpc_url=local_chain.rpc_url, max_price_atomic=PRICE
    )


def test_our_client_pays_a_stock_server(shop, store, local_chain):
    async def work() -> None:
        async with MachPayClient(a_config(shop, local_chain)) as client:
            for number in range(3):
                answer = await client.pay_and_call(f"{store}/quote?of={number}")
                assert (answer.status_code, answer.json()) == (200, {"quote": 42, "of": str(number)})
                assert answer.payment is not None
                assert (answer.payment.charged, answer.payment.served_total) == (PRICE, (number + 1) * PRICE)
                assert answer.payment.gateway == str(shop.gateway)
            free = await client.pay_and_call(f"{store}/hello")
            assert (free.json(), free.payment) == ({"hello": "world"}, None)

    asyncio.run(work())
    assert charged(shop) == (3, 3 * PRICE)


def test_our_client_corrects_its_total_at_a_stock_server(shop, store, local_chain):
    async def work() -> list[int]:
        attempts = []
        for _ in range(2):
            async with MachPayClient(a_config(shop, local_chain)) as client:
                answer = await client.pay_and_call(f"{store}/quote")
                assert answer.payment is not None
                assert answer.payment.charged == PRICE
                attempts.append(answer.payment.attempts)
        return attempts

    assert asyncio.run(work()) == [1, 2]
    assert charged(shop) == (2, 2 * PRICE)


def test_what_a_stock_server_does_not_serve_costs_nothing(shop, store, local_chain):
    async def work() -> None:
        async with MachPayClient(a_config(shop, local_chain)) as client:
            answer = await client.pay_and_call(f"{store}/broken")
            assert (answer.status_code, answer.payment) == (503, None)

    asyncio.run(work())
    assert charged(shop) == (0, 0)


def test_a_stock_client_pays_a_stock_server_also_after_a_lost_state(shop, store, local_chain):
    async def work() -> None:
        for _ in range(2):
            scheme = MachPayScheme(a_config(shop, local_chain))
            async with x402HttpxClient(x402Client().register("solana:*", scheme)) as http:
                answer = await http.get(f"{store}/quote")
                assert (answer.status_code, answer.json()["quote"]) == (200, 42)
                receipt = decode_response(answer.headers[RESPONSE_HEADER]).extra["receipt"]
                assert receipt["charged"] == str(PRICE)

    asyncio.run(work())
    assert charged(shop) == (2, 2 * PRICE)


def test_one_payment_buys_one_answer_and_a_lost_one_is_told_with_its_receipt(shop, store, local_chain):
    async def work() -> None:
        async with MachPayClient(a_config(shop, local_chain)) as client:
            await client.pay_and_call(f"{store}/quote?of=1")
        async with Relay(store) as line, MachPayClient(a_config(shop, local_chain)) as client:
            # This one's total is corrected first; then its answer is lost, and its bytes go again.
            line.plan.extend(["pass", "pass", "cut after"])
            with pytest.raises(ResponseLostError) as lost:
                await client.pay_and_call(f"{line.url}/quote?of=2")
            assert lost.value.charged == PRICE
            (paid,) = {request for request in line.seen[2:] if b"/quote" in request}
            head, _, _ = paid.decode().partition("\r\n\r\n")
            lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
            signature = {name: text for name, text in lines.items() if name.lower() == "payment-signature"}
            async with httpx.AsyncClient() as thief:
                for number in range(3):
                    answer = await thief.get(f"{store}/quote?of={number}", headers=signature)
                    assert answer.status_code == 402

    asyncio.run(work())
    assert charged(shop) == (2, 2 * PRICE)


def test_a_payment_for_another_path_is_not_taken(shop, store, local_chain):
    async def work() -> int:
        async with MachPayClient(a_config(shop, local_chain)) as client:
            await client.pay_and_call(f"{store}/quote")
            paid = client._transport.build("GET", f"{store}/broken")
            order = shop.payload(accepted=shop.requirements())
            header = encode_header(order)
            answer = await client._transport.send(paid, {SIGNATURE_HEADER: header})
            return answer.status_code  # type: ignore[union-attr]

    assert asyncio.run(work()) == 402
    assert charged(shop) == (1, PRICE)


def test_a_vendor_without_a_hosted_gateway_is_refused_at_the_start(shop):
    stranger = SigningKey.generate().pubkey
    with pytest.raises(FacilitatorError, match="not registered"):
        asyncio.run(MachPayServerScheme.hosted(shop.url, shop.network, stranger))


def test_a_facilitator_of_ones_own_answers_with_the_networks_word(shop):
    scheme = MachPayFacilitatorScheme(shop.url)
    own = x402Facilitator().register([shop.network.caip2], scheme)
    try:
        assert scheme.get_extra(shop.network.caip2)["programId"] == str(shop.network.program_id)
        required = PaymentRequirements.model_validate(to_json(shop.requirements()))
        payload = PaymentPayload.model_validate(to_json(shop.payload()))
        assert asyncio.run(own.verify(payload, required)).is_valid
        assert charged(shop) == (0, 0)
        first, again = (asyncio.run(own.settle(payload, required)) for _ in range(2))
    finally:
        scheme.close()
    assert (first.success, first.amount, first.extra) == (True, str(PRICE), again.extra)
    assert charged(shop) == (1, PRICE)


def to_json(value: Any) -> Any:
    return msgspec.to_builtins(value)
