"""Gateways that lie: about who they are, what it costs, what was agreed. Each lie is refused or costs a
bounded sum."""

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from msgspec.structs import replace
from solders.hash import Hash

from machpay import MachPayClient, MachPayConfig
from machpay.client.errors import (
    GatewayExposureError,
    GatewayMismatchError,
    PaymentRefusedError,
    PriceTooHighError,
    ReceiptError,
    ResponseLostError,
)
from machpay.client.headroom import MAX_PRICES
from machpay.protocol.keys import SigningKey
from machpay.protocol.receipts import Receipt
from machpay.protocol.x402 import RESPONSE_HEADER, Correction, correction_json
from tests.gateway.servers import serve
from tests.sdk.model import AGENT, GATEWAY, NETWORK, STRANGER, a_receipt, a_voucher
from tests.sdk.relay import Relay
from tests.sdk.scripted import PRICE, Scripted, changed

BOUND = (MAX_PRICES + 1) * PRICE


@pytest.fixture
async def scripted() -> AsyncIterator[Scripted]:
    server = Scripted()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client() -> AsyncIterator[MachPayClient]:
    async with MachPayClient(MachPayConfig(key=AGENT, network=NETWORK, timeout_s=60.0)) as opened:
        yield opened


async def test_the_scripted_gateway_is_honest_by_default(client, scripted):
    for number in range(1, 4):
        response = await client.pay_and_call(scripted.url + "/x?y=1")
        assert (response.payment.charged, response.payment.served_total) == (PRICE, number * PRICE)
    assert scripted.signed == 3 * PRICE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("network", "solana:mainnet"),
        ("domain", Hash(b"\x20" * 32)),
        ("program_id", STRANGER.public),
        ("mint", STRANGER.public),
        ("request_hash", bytes(32)),
    ],
)
async def test_an_offer_for_something_else_is_not_signed(client, scripted, field, value):
    scripted.change_offer = changed(**{field: value})
    with pytest.raises(GatewayMismatchError):
        await client.pay_and_call(scripted.url + "/x")
    assert scripted.paid == []


async def test_an_origin_that_changes_its_key_is_not_paid(client, scripted):
    await client.pay_and_call(scripted.url + "/x")
    scripted.key = STRANGER
    with pytest.raises(GatewayMismatchError, match=GATEWAY.pubkey):
        await client.pay_and_call(scripted.url + "/y")
    assert len(scripted.paid) == 1


@pytest.mark.parametrize(
    "headers",
    [{}, {"PAYMENT-REQUIRED": "%%%"}, {"PAYMENT-REQUIRED": "e30="}],
    ids=["no header", "no base64", "no object"],
)
async def test_a_402_that_says_nothing_usable_is_a_mismatch(client, headers):
    async def reply(_request: web.Request) -> web.Response:
        return web.Response(status=402, headers=headers)

    app = web.Application()
    app.router.add_get("/x", reply)
    server = await serve(app)
    try:
        with pytest.raises(GatewayMismatchError):
            await client.pay_and_call(server.url + "/x")
    finally:
        await server.stop()


async def test_a_price_that_rises_is_paid_up_to_the_limit(client, scripted):
    await client.pay_and_call(scripted.url + "/x")
    scripted.price = 2 * PRICE
    response = await client.pay_and_call(scripted.url + "/x", max_price_atomic=2 * PRICE)
    assert (response.payment.charged, response.payment.attempts) == (2 * PRICE, 2)
    scripted.price = 3 * PRICE
    with pytest.raises(PriceTooHighError):
        await client.pay_and_call(scripted.url + "/x", max_price_atomic=2 * PRICE)
    assert scripted.served == 3 * PRICE
    assert scripted.signed <= 5 * PRICE


async def test_a_price_that_falls_again_is_noticed(client, scripted):
    scripted.price = 5 * PRICE
    await client.pay_and_call(scripted.url + "/x")
    scripted.price = PRICE
    response = await client.pay_and_call(scripted.url + "/x", max_price_atomic=PRICE)
    assert response.payment.amount == PRICE


async def test_a_gateway_that_never_finds_the_amount_right_is_given_up(client, scripted):
    scripted.refuse = lambda arrived: "amount_too_low"
    with pytest.raises(PaymentRefusedError) as raised:
        await client.pay_and_call(scripted.url + "/x")
    assert (raised.value.code, raised.value.attempts) == ("amount_too_low", 1)
    assert len(scripted.paid) == 1


@pytest.mark.parametrize("code", ["invalid_signature", "intent_expired", "budget_exceeded", "made_up"])
async def test_other_refusals_are_final(client, scripted, code):
    scripted.refuse = lambda arrived: code
    with pytest.raises(PaymentRefusedError) as raised:
        await client.pay_and_call(scripted.url + "/x")
    assert raised.value.code == code
    assert len(scripted.paid) == 1


@pytest.mark.parametrize(
    "correction",
    [
        pytest.param({}, id="none"),
        pytest.param(correction_json(Correction(10**12, None)), id="no voucher"),
        pytest.param(correction_json(Correction(10**12, a_voucher(PRICE))), id="voucher below the total"),
        pytest.param(correction_json(Correction(10**12, a_voucher(10**12, STRANGER))), id="another key"),
    ],
)
async def test_a_total_without_proof_is_not_followed(client, scripted, correction):
    scripted.refuse = lambda arrived: "cumulative_too_low"
    scripted.correct = lambda arrived: correction
    with pytest.raises(GatewayExposureError):
        await client.pay_and_call(scripted.url + "/x")
    assert scripted.signed == PRICE
    assert len(scripted.paid) == 1


async def test_totals_that_rise_step_by_step_stop_at_the_bound(client, scripted):
    """The gateway shows us our own voucher again and again and signs receipts for it that nobody asked
    for."""

    def lie(arrived):
        cumulative = arrived.intent.cumulative
        receipt = a_receipt(b"\x09" * 32, charged=PRICE, served_total=cumulative)
        return {
            **correction_json(Correction(cumulative, arrived.intent.voucher(arrived.signature))),
            "receipt": receipt.to_json(),
        }

    scripted.refuse = lambda arrived: "cumulative_too_low"
    scripted.correct = lie
    errors = []
    for _ in range(5):
        with pytest.raises((GatewayExposureError, PaymentRefusedError)) as raised:
            await client.pay_and_call(scripted.url + "/x")
        errors.append(type(raised.value))
    assert scripted.signed == BOUND
    assert errors[-1] is GatewayExposureError


async def test_a_gateway_that_inflates_receipts_while_it_serves_gains_no_more(client, scripted):
    """Every answer is served, but its receipt claims everything that was signed."""
    scripted.sign = lambda receipt: replace(receipt, served_total=scripted.signed + 50 * PRICE).sign(GATEWAY)
    refusals = iter(range(4))
    scripted.refuse = lambda arrived: "cumulative_too_low" if next(refusals, None) is not None else None
    scripted.correct = lambda arrived: correction_json(
        Correction(arrived.intent.cumulative, arrived.intent.voucher(arrived.signature))
    )
    for _ in range(30):
        await client.pay_and_call(scripted.url + "/x")
    assert scripted.served == 30 * PRICE
    assert scripted.signed <= 30 * PRICE + BOUND


FORGERIES = {
    "another key": lambda receipt: receipt.sign(STRANGER),
    "another payment": lambda receipt: replace(receipt, digest=bytes(32)).sign(GATEWAY),
    "more than was signed": lambda receipt: replace(receipt, charged=PRICE + 1, served_total=PRICE + 1).sign(
        GATEWAY
    ),
    "a total below the charge": lambda receipt: replace(receipt, served_total=PRICE - 1).sign(GATEWAY),
    "another status": lambda receipt: replace(receipt, http_status=301).sign(GATEWAY),
}


@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_forged_receipt_is_reported_with_the_answer_and_proves_nothing(client, scripted, forgery):
    scripted.sign = forgery
    with pytest.raises(ReceiptError) as raised:
        await client.pay_and_call(scripted.url + "/x")
    assert raised.value.response.json() == {"served": True}
    assert raised.value.digest == scripted.paid[0].intent.digest
    channel = client._book.channel(GATEWAY.public)
    assert (channel.served, channel.unresolved) == (0, PRICE)


async def test_a_payment_header_that_does_not_parse_is_a_receipt_error(client, scripted):
    scripted.bare = lambda arrived: web.Response(headers={RESPONSE_HEADER: "%%%"}, text="data")
    with pytest.raises(ReceiptError) as raised:
        await client.pay_and_call(scripted.url + "/x")
    assert raised.value.response.text == "data"


async def test_an_answer_without_a_word_about_money_is_looked_up(client, scripted):
    def strip(arrived):
        scripted.served += PRICE
        receipt = Receipt(arrived.intent.digest, 200, PRICE, scripted.served, 0)
        scripted.receipts[arrived.intent.digest] = receipt.sign(GATEWAY)
        return web.Response(text="data")

    scripted.bare = strip
    response = await client.pay_and_call(scripted.url + "/x")
    assert (response.text, response.payment.charged) == ("data", PRICE)
    scripted.bare = lambda arrived: web.Response(text="free now")
    response = await client.pay_and_call(scripted.url + "/x")
    assert (response.text, response.payment) == ("free now", None)
    assert client._book.channel(GATEWAY.public).unresolved == 0


async def test_a_lying_look_up_is_refused(client, scripted):
    await client.pay_and_call(scripted.url + "/x")
    digest = scripted.paid[0].intent.digest
    scripted.receipts[digest] = Receipt(digest, 200, PRICE, PRICE, 0).sign(STRANGER)
    with pytest.raises(GatewayMismatchError, match="receipt"):
        await client.look_up(scripted.url, digest)


async def test_a_refusal_after_a_copy_that_was_accepted_is_no_refusal(client, scripted):
    """The first copy is served but its answer is lost; the second is refused for a reason that hides it."""
    await client.pay_and_call(scripted.url + "/x")
    async with Relay(scripted.url) as relay:
        await client.pay_and_call(relay.url + "/x")
        relay.plan.append("cut after")
        scripted.refuse = lambda arrived: (
            "intent_expired" if arrived.intent.digest in scripted.receipts else None
        )
        with pytest.raises(ResponseLostError) as raised:
            await client.pay_and_call(relay.url + "/x")
    assert raised.value.charged == PRICE
    assert scripted.served == 3 * PRICE


async def test_a_refusal_after_a_copy_that_never_arrived_is_a_refusal(client, scripted):
    async with Relay(scripted.url) as relay:
        await client.pay_and_call(relay.url + "/x")
        relay.plan.append("cut before")
        scripted.refuse = lambda arrived: "budget_exceeded"
        with pytest.raises(PaymentRefusedError) as raised:
            await client.pay_and_call(relay.url + "/x")
    assert raised.value.code == "budget_exceeded"
    assert client._book.channel(GATEWAY.public).unresolved == 0


async def test_every_signature_has_a_nonce_of_its_own(client, scripted):
    refusals = iter(range(6))
    scripted.refuse = lambda arrived: "cumulative_too_low" if next(refusals, None) is not None else None
    for _ in range(4):
        await client.pay_and_call(scripted.url + "/x")
    nonces = [arrived.intent.nonce for arrived in scripted.paid]
    assert len(nonces) == 10
    assert len(set(nonces)) == len(nonces)


async def test_receipts_verify_only_for_their_gateway_and_payment(client, scripted):
    payment = (await client.pay_and_call(scripted.url + "/x")).payment
    assert client.verify_receipt(payment.receipt, gateway=payment.gateway, digest=payment.digest)
    assert client.verify_receipt(payment.receipt.to_json(), gateway=payment.gateway)
    assert not client.verify_receipt(payment.receipt, gateway=SigningKey.generate().pubkey)
    assert not client.verify_receipt(payment.receipt, gateway=payment.gateway, digest=bytes(32))
    assert not client.verify_receipt({"digest": "00"}, gateway=payment.gateway)
    assert not client.verify_receipt(payment.receipt, gateway="nobody")
