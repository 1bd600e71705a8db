"""Complaints and self-incrimination over HTTP, with the local chain behind the relayer."""

import asyncio
import functools
import time
from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from aiohttp import web
from django.db import connection

from apps.payments.models import Case, Complaint, Gateway
from devnet.offers import ATLAS, LEXICON
from machpay import MachPayClient, MachPayConfig
from machpay.client.errors import ComplaintRefusedError, PaymentRefusedError, UnknownPaymentError
from machpay.protocol import x402
from machpay.protocol.keys import SigningKey
from machpay.protocol.receipts import Receipt
from machpay.protocol.settlements import ResolvedPayment, to_item
from tests.payments.relayer_client import RelayerClient, batch, shared_relayer
from tests.sdk.scripted import Arrived, Scripted
from tests.support.chain import LocalChain, Payer
from tests.support.servers import Server

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def relayer(
    local_chain: LocalChain, django_db_setup, django_db_blocker, tmp_path_factory
) -> Iterator[Server]:
    with shared_relayer(local_chain, django_db_blocker, tmp_path_factory.mktemp("relayer")) as server:
        yield server


def complain(
    relayer: Server,
    payer: Payer,
    kind: str,
    payment: ResolvedPayment,
    *,
    by: SigningKey | None = None,
    **item: Any,
) -> httpx.Response:
    fields = msgspec.to_builtins(to_item(payment)) | item
    with RelayerClient(relayer.url, by or payer.agent) as client:
        return client.post("/complaints", {"gateway": payer.gateway.pubkey, "kind": kind, "payment": fields})


def know(relayer: Server, agent: SigningKey) -> None:
    """Wait until the relayer has read the agent's bond from the chain; while it cannot, it says 503."""
    deadline = time.monotonic() + 120
    with RelayerClient(relayer.url, agent) as client:
        while True:
            answer = client.get(f"/liability/{agent.pubkey}")
            if answer.status_code == 200 and answer.json()["snapshot"]["bond"] == "1000000":
                return
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.2)


def test_an_agent_with_a_bond_complains_and_is_told_the_verdict(relayer, local_chain):
    payer = local_chain.payer(local_chain.new_agent(bond_atomic=1_000_000), LEXICON)
    local_chain.wait_until_final()
    payment = payer.pay(500, charged=0)
    know(relayer, payer.agent)

    answer = complain(relayer, payer, "DENIED", payment)

    assert (answer.status_code, answer.json()["verdict"]) == (201, "NOTED")
    stored = Complaint.objects.get(agent=payer.agent.pubkey)
    assert (stored.id, stored.gateway_id) == (answer.json()["id"], payer.gateway.pubkey)
    assert stored.evidence["payment"]["receipt"] is not None


@pytest.mark.parametrize(
    ("kind", "item", "status", "code"),
    [
        ("RUDE", {}, 400, "malformed"),
        ("DENIED", {"nonce": "x"}, 400, "malformed"),
        ("DENIED", {"amount": "7"}, 422, "invalid_signature"),
        ("DENIED", {"receipt": "A" * 86 + "=="}, 422, "invalid_signature"),
        ("OVERCHARGED", {"receipt": None, "served_total": None, "served_at": None}, 422, "complaint_refused"),
    ],
)
def test_what_proves_nothing_is_refused(relayer, local_chain, kind, item, status, code):
    payer = local_chain.payer(SigningKey.generate(), LEXICON)

    answer = complain(relayer, payer, kind, payer.pay(1_000, charged=0), **item)

    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert not Complaint.objects.filter(agent=payer.agent.pubkey).exists()


def test_nobody_complains_for_others(relayer, local_chain):
    payer = local_chain.payer(SigningKey.generate(), LEXICON)

    answer = complain(relayer, payer, "DENIED", payer.pay(10, charged=0), by=SigningKey.generate())

    assert (answer.status_code, answer.json()["code"]) == (403, "not_yours")
    assert not Complaint.objects.filter(agent=payer.agent.pubkey).exists()


def test_a_gateway_that_charged_without_a_signature_is_blacklisted_by_its_own_receipt(relayer, local_chain):
    key = local_chain.gateway(ATLAS)
    payer = local_chain.payer(SigningKey.generate(), ATLAS)
    served, void, unsigned = payer.pay(100), payer.pay(50, charged=0), payer.pay(900)
    other = msgspec.to_builtins(to_item(served))["signature"]
    with RelayerClient(relayer.url, key) as gateway:
        gateway.deliver(served)
        # An uncharged one proves nothing.
        harmless = batch(key, void)
        harmless["batch"][0]["signature"] = other
        assert gateway.post("/settlements", harmless).json()["rejected"] == 1
        assert not Case.objects.filter(subject=key.pubkey).exists()

        body = batch(key, unsigned)
        body["batch"][0]["signature"] = other
        answer = gateway.post("/settlements", body)

        assert answer.json()["results"][0]["code"] == "invalid_signature"
        case = Case.objects.get(subject=key.pubkey)
        assert (case.kind, case.status) == ("INVALID_SIGNATURE", "UPHELD")
        assert case.evidence["items"][0]["amount"] == "900"
        row = Gateway.objects.get(pubkey=key.pubkey)
        assert (row.penalty_points, row.blacklisted_at is None) == (100, False)
        # What it delivers is still stored: vouchers are never refused for a business reason.
        assert gateway.deliver(payer.pay(50))["accepted"] == 1


async def test_the_sdk_complains_with_what_it_signed_and_the_receipt_it_got(relayer, local_chain, tmp_path):
    agent = await asyncio.to_thread(local_chain.new_agent, bond_atomic=1_000_000)
    await asyncio.to_thread(local_chain.wait_until_final)
    await asyncio.to_thread(know, relayer, agent)
    server = Scripted(key=local_chain.keys.get("gateway-lexicon"), network=local_chain.network)
    server.refuse = lambda arrived: "agent_suspended"
    config = MachPayConfig(
        key=agent,
        network=local_chain.network,
        rpc_url=local_chain.rpc_url,
        relayer_url=relayer.url,
        state_dir=tmp_path,
    )
    await server.start()
    try:
        async with MachPayClient(config) as client:
            with pytest.raises(PaymentRefusedError) as refused:
                await client.pay_and_call(server.url + "/x")
            server.bare = functools.partial(_failed, server)
            failed = await client.pay_and_call(server.url + "/x")
            assert (failed.status_code, failed.charged) == (500, 0)
            with pytest.raises(UnknownPaymentError):
                await client.complain(bytes(32))
            first = await client.complain(refused.value.digest, detail="my bond is whole")
        # Another process finds both in the state folder.
        async with MachPayClient(config) as client:
            kept = list(client.evidence.kept())
            assert [(one.payment, one.reason) for one in kept] == [
                (refused.value.digest.hex(), "agent_suspended"),
                (failed.payment.digest.hex(), "http_500"),
            ]
            again = await client.complain(refused.value.digest)
            second = await client.complain(failed.payment.digest)
            with pytest.raises(ComplaintRefusedError) as turned_down:
                await client.complain(refused.value.digest, "OVERCHARGED")
    finally:
        await server.stop()
    assert (first.verdict, again.id, second.verdict) == ("NOTED", first.id, "NOTED")
    assert (turned_down.value.status, "receipt" in turned_down.value.detail) == (422, True)
    stored = await asyncio.to_thread(_stored, agent.pubkey)
    assert [(row.kind, row.detail, row.evidence["payment"]["receipt"] is None) for row in stored] == [
        ("DENIED", "my bond is whole", True),
        ("DENIED", "", False),
    ]


def _stored(agent: str) -> list[Complaint]:
    try:
        return list(Complaint.objects.filter(agent=agent).order_by("id"))
    finally:
        connection.close()


def _failed(server: Scripted, arrived: Arrived) -> web.Response:
    receipt = Receipt(arrived.intent.digest, 500, 0, 0, int(time.time())).sign(server.key)
    response = x402.PaymentResponse(
        success=False,
        payer="",
        network=server.network.caip2,
        amount="0",
        extra={"receipt": receipt.to_json()},
    )
    return web.Response(status=500, headers={x402.RESPONSE_HEADER: x402.encode_header(response)})
