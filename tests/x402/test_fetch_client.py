"""The stock npm client `@x402/fetch`, in an environment of its own, pays a real gateway with the example's scheme."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from machpay.protocol import x402
from machpay.protocol.receipts import Receipt
from tests.gateway.conftest import RunningGateway, eventually
from tests.gateway.factories import PRICE, network
from tests.sdk.scripted import Arrived, Scripted
from tests.support import node
from tests.x402.install import HERE, client_folder

ROOT = HERE.parents[1]
VECTORS = ROOT / "contracts" / "vectors"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driver beside the scheme. Node looks for packages beside the script."""
    folder = tmp_path_factory.mktemp("fetch")
    (folder / "node_modules").symlink_to(client_folder() / "node_modules")
    shutil.copy(HERE / "client.mjs", folder)
    shutil.copy(ROOT / "examples" / "x402-fetch" / "machpay-scheme.mjs", folder)
    return folder / "client.mjs"


async def pay(script: Path, secret: list[int], *calls: dict[str, Any]) -> list[dict[str, Any]]:
    """A process without any state makes these calls one after the other."""
    net = network()
    request = {
        "command": "pay",
        "secret": secret,
        "network": {"programId": str(net.program_id), "mint": str(net.mint), "domain": str(net.domain)},
        "calls": list(calls),
    }
    answers: list[dict[str, Any]] = await asyncio.to_thread(node.ask, script, request)
    return answers


@pytest.fixture
def secret(key) -> list[int]:
    return list(bytes(key.keypair()))


def get(gateway: RunningGateway, target: str) -> dict[str, Any]:
    return {"url": gateway.url + target, "method": "GET"}


def charged(answer: dict[str, Any]) -> int:
    return int(answer["settled"]["extra"]["receipt"]["charged"])


def test_the_scheme_builds_the_bytes_of_the_golden_vectors(script):
    vectors = {
        name: json.loads((VECTORS / f"{name}.json").read_text())
        for name in ("channels", "intents", "receipts")
    }
    for vector in vectors["receipts"]["vectors"]:
        # JavaScript's JSON cannot hold the largest time as a number; its BigInt reads the text.
        vector["json"]["time"] = vector["time"]
    built = node.ask(script, {"command": "vectors", **vectors})
    assert built["channels"] == [vector["channel"] for vector in vectors["channels"]["vectors"]]
    names = ("contextHex", "messageHex", "digestHex")
    assert built["intents"] == [
        {name: vector[name] for name in names} for vector in vectors["intents"]["vectors"]
    ]
    assert built["receipts"] == [vector["messageHex"] for vector in vectors["receipts"]["vectors"]]


async def test_the_npm_client_pays_and_is_served(script, secret, gateway, upstream, net):
    post = {"url": gateway.url + "/paid", "method": "POST", "body": '{"text":"hello"}'}
    answers = await pay(script, secret, get(gateway, "/paid?x=1"), post, get(gateway, "/paid?x=2"))
    assert [answer["status"] for answer in answers] == [200, 200, 200]
    assert json.loads(answers[1]["body"]) == {"path": "/paid", "body": len(post["body"])}
    assert [charged(answer) for answer in answers] == [PRICE] * 3
    assert len(upstream.seen) == 3
    await eventually(lambda: net.charged == 3 * PRICE, "the relayer knows the charges")


async def test_the_npm_client_recovers_after_its_state_is_lost(script, secret, key, gateway, client):
    assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE
    answers = await pay(script, secret, get(gateway, "/paid"), get(gateway, "/paid"))
    assert [(answer["status"], charged(answer)) for answer in answers] == [(200, PRICE)] * 2
    again = await pay(script, secret, get(gateway, "/paid"))
    assert [(answer["status"], charged(answer)) for answer in again] == [(200, PRICE)]
    assert await gateway.committed(gateway.payer(key)) == 4 * PRICE


async def test_the_npm_client_pays_nothing_for_what_is_not_served(script, secret, key, gateway):
    failing = get(gateway, "/paid?mode=status-503")
    failed, served = await pay(script, secret, failing, get(gateway, "/paid"))
    assert [(answer["status"], charged(answer)) for answer in (failed, served)] == [(503, 0), (200, PRICE)]
    assert await gateway.committed(gateway.payer(key)) == PRICE


async def test_a_gateway_that_counts_what_it_never_served_gets_no_more_signed(script, secret, key):
    """Every answer is a failure that charged nothing, and its receipt's total includes it all the same."""
    lying = Scripted(network=network())

    def fail(arrived: Arrived) -> web.Response:
        receipt = Receipt(arrived.intent.digest, 503, 0, arrived.intent.cumulative, 0).sign(lying.key)
        response = x402.PaymentResponse(
            success=False,
            error_reason="upstream_failed",
            payer=key.pubkey,
            network=lying.network.caip2,
            amount="0",
            extra={"commitmentId": arrived.intent.digest.hex(), "receipt": receipt.to_json()},
        )
        return web.Response(status=503, headers={x402.RESPONSE_HEADER: x402.encode_header(response)})

    lying.bare = fail
    await lying.start()
    try:
        answers = await pay(
            script, secret, *[{"url": f"{lying.url}/{n}", "method": "GET"} for n in range(12)]
        )
    finally:
        await lying.stop()
    assert [answer["status"] for answer in answers] == [503] * 12
    assert len(lying.paid) == 12
    assert lying.signed == 2 * lying.price
