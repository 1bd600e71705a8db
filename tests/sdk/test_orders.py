"""What the gateway's answers to a payment mean, header by header."""

from dataclasses import replace

import msgspec
import pytest

from machpay.client.orders import (
    REPEATED_HEADER,
    Order,
    Outcome,
    check_receipt,
    check_status,
    place,
    read_outcome,
    read_refusal,
)
from machpay.client.terms import Call, Challenge
from machpay.protocol.errors import MalformedError
from machpay.protocol.identifiers import DECLARATION, EXTENSION, read_identifier
from machpay.protocol.nonces import MAX_LIFETIME_S, lifetime_is_allowed, nonce_unix_ms
from machpay.protocol.offers import Offer
from machpay.protocol.receipts import SignedReceipt
from machpay.protocol.requests import request_hash
from machpay.protocol.x402 import (
    REQUIRED_HEADER,
    RESPONSE_HEADER,
    SIGNATURE_HEADER,
    VERSION,
    Correction,
    PaymentRequired,
    PaymentResponse,
    Resource,
    correction_json,
    decode_payload,
    encode_header,
    parse_terms,
)
from tests.sdk.model import AGENT, GATEWAY, NETWORK, NOW, STRANGER, a_receipt, a_voucher, an_agent

IDENTIFIER = "pay_0123456789abcdef"
CALL = Call("http://h/a", "http://h:80", "GET", b"/a", b"")
OFFER = Offer(
    network=NETWORK.caip2,
    program_id=NETWORK.program_id,
    mint=NETWORK.mint,
    domain=NETWORK.domain,
    vendor=STRANGER.public,
    gateway=GATEWAY.public,
    amount=1_000,
    max_timeout_s=60,
    request_hash=request_hash("GET", b"/a"),
    binding="request",
)


def an_order(offer: Offer = OFFER) -> Order:
    return place(AGENT, an_agent(), Challenge(offer, {}), CALL, IDENTIFIER, NOW + 0.75)


def required(code: str, extra: dict[str, object] | None = None) -> str:
    requirements = OFFER.to_requirements()
    requirements.extra.update(extra or {})
    return encode_header(PaymentRequired(VERSION, code, Resource(url="http://h/a"), [requirements]))


def response(
    receipt: SignedReceipt | None = None, *, reason: str | None = None, extra: dict[str, object] | None = None
) -> str:
    value = PaymentResponse(
        success=reason is None,
        payer=AGENT.pubkey,
        network=NETWORK.caip2,
        amount="0",
        error_reason=msgspec.UNSET if reason is None else reason,
        extra=extra or ({} if receipt is None else {"receipt": receipt.to_json()}),
    )
    return encode_header(value)


def test_an_order_is_a_signed_payment_for_the_call():
    order = an_order()
    terms = parse_terms(decode_payload(order.headers[SIGNATURE_HEADER]).payload)
    intent = terms.intent(NETWORK.channel(AGENT.public, GATEWAY.public))
    assert intent == order.intent
    assert intent.is_signed_by(AGENT.public, terms.signature)
    assert order.digest == intent.digest
    assert (intent.amount, intent.cumulative, intent.request_hash) == (1_000, 1_000, OFFER.request_hash)
    assert intent.deadline == NOW + 60
    assert nonce_unix_ms(intent.nonce) == NOW * 1000 + 750


@pytest.mark.parametrize("max_timeout_s", [1, 60, MAX_LIFETIME_S, MAX_LIFETIME_S + 1, 2**31])
def test_a_nonce_never_outlives_what_the_network_allows(max_timeout_s):
    intent = an_order(replace(OFFER, max_timeout_s=max_timeout_s)).intent
    assert intent.deadline == NOW + min(max_timeout_s, MAX_LIFETIME_S)
    assert lifetime_is_allowed(intent.nonce, intent.deadline)


def test_a_refusal_is_read_from_either_header():
    assert read_refusal({REQUIRED_HEADER: required("intent_expired")}).code == "intent_expired"
    assert read_refusal({RESPONSE_HEADER: response(reason="nonce_replayed")}).code == "nonce_replayed"
    both = read_refusal(
        {REQUIRED_HEADER: required("payment_required"), RESPONSE_HEADER: response(reason="amount_too_low")}
    )
    assert both.code == "amount_too_low"
    assert both.required is not None


def test_a_correction_is_read_from_either_header_with_its_receipt():
    correction = Correction(7, a_voucher(9))
    receipt = a_receipt(b"\x01" * 32, charged=1, served_total=7)
    extra = {**correction_json(correction), "receipt": receipt.to_json()}
    code = "cumulative_too_low"
    for headers in (
        {REQUIRED_HEADER: required(code, extra)},
        {REQUIRED_HEADER: required(code), RESPONSE_HEADER: response(reason=code, extra=extra)},
        {RESPONSE_HEADER: response(reason=code, extra=extra)},
    ):
        refusal = read_refusal(headers)
        assert (refusal.correction, refusal.receipt) == (correction, receipt)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {REQUIRED_HEADER: "%%%"},
        {RESPONSE_HEADER: response()},
        {REQUIRED_HEADER: required("cumulative_too_low", {"committedTotal": "-1"})},
        {REQUIRED_HEADER: required("cumulative_too_low", {"committedTotal": "1", "receipt": {}})},
    ],
)
def test_a_402_that_cannot_be_read_is_malformed(headers):
    with pytest.raises(MalformedError):
        read_refusal(headers)


def named(order: Order) -> Order:
    return msgspec.structs.replace(order, is_named=True)


def test_a_payment_is_named_only_where_the_gateway_understands_it():
    assert decode_payload(an_order().headers[SIGNATURE_HEADER]).extensions == {}
    declared = {EXTENSION: dict(DECLARATION)}
    order = place(AGENT, an_agent(), Challenge(OFFER, declared), CALL, IDENTIFIER, NOW + 0.75)
    extensions = decode_payload(order.headers[SIGNATURE_HEADER]).extensions
    assert (order.is_named, read_identifier(extensions)) == (True, IDENTIFIER)
    assert extensions[EXTENSION]["schema"] == DECLARATION["schema"]


def test_a_receipt_is_read_and_checked():
    order = an_order()
    receipt = a_receipt(order.digest, charged=1_000, served_total=1_000)
    assert read_outcome({RESPONSE_HEADER: response(receipt)}, order) == Outcome(order, receipt)
    check_status(receipt, 200)
    assert read_outcome({}, order) is None


@pytest.mark.parametrize(
    ("charged", "served_total", "key", "match"),
    [
        (1_001, 5_000, GATEWAY, "more than was signed"),
        (1_000, 999, GATEWAY, "below its charge"),
        (1_000, 1_000, STRANGER, "not signed by the gateway"),
    ],
)
def test_a_receipt_that_is_not_the_gateways_valid_word_is_malformed(charged, served_total, key, match):
    order, earlier = an_order(), named(an_order())
    for of in (order, earlier):
        receipt = a_receipt(of.digest, charged=charged, served_total=served_total, key=key)
        with pytest.raises(MalformedError, match=match):
            read_outcome({RESPONSE_HEADER: response(receipt)}, order, [earlier])


def test_a_receipt_for_another_payment_or_status_is_malformed():
    order = an_order()
    other = a_receipt(an_order().digest, charged=1_000, served_total=1_000)
    with pytest.raises(MalformedError, match="another payment"):
        check_receipt(other, order)
    own = a_receipt(order.digest, charged=0, served_total=0)
    with pytest.raises(MalformedError, match="status 503, the answer has 404"):
        check_status(own, 404)


def test_an_earlier_payment_of_the_call_is_an_answer_only_under_a_shared_identifier():
    order, earlier = named(an_order()), an_order()
    receipt = a_receipt(earlier.digest, charged=1_000, served_total=1_000)
    headers = {RESPONSE_HEADER: response(receipt), REPEATED_HEADER: "true"}
    assert read_outcome(headers, order, [named(earlier)]) == Outcome(named(earlier), receipt)
    with pytest.raises(MalformedError, match="another payment"):
        read_outcome(headers, order, [earlier])


def test_a_payment_of_another_process_is_an_answer_only_under_the_callers_own_identifier():
    order = named(an_order())
    receipt = a_receipt(b"\x07" * 32, charged=1_000, served_total=1_000)
    headers = {RESPONSE_HEADER: response(receipt), REPEATED_HEADER: "true"}
    assert read_outcome(headers, order, is_shared=True) == Outcome(None, receipt)
    forged = a_receipt(b"\x07" * 32, charged=1_000, served_total=1_000, key=STRANGER)
    for refused, of, shared in (
        (headers, order, False),
        ({RESPONSE_HEADER: response(receipt)}, order, True),
        (headers, an_order(), True),
        ({**headers, RESPONSE_HEADER: response(forged)}, order, True),
    ):
        with pytest.raises(MalformedError):
            read_outcome(refused, of, is_shared=shared)


def test_a_metered_stream_has_no_receipt_before_its_end():
    order = an_order()
    pending = {"pending": True, "commitmentId": order.digest.hex()}
    assert read_outcome({RESPONSE_HEADER: response(extra=pending)}, order) == Outcome(order, None)
    with pytest.raises(MalformedError, match="another payment"):
        read_outcome({RESPONSE_HEADER: response(extra=pending)}, an_order())


@pytest.mark.parametrize("header", ["%%%", response(), response(extra={"receipt": "x"})])
def test_a_response_header_without_a_receipt_is_malformed(header):
    with pytest.raises(MalformedError):
        read_outcome({RESPONSE_HEADER: header}, an_order())
