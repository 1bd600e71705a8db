"""The handshake: headers round trip, offers are typed, and malformed ones are refused by name."""

import base64
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from machpay.protocol import x402
from machpay.protocol.encoding import I64_MAX, U64_MAX
from machpay.protocol.errors import MalformedError
from machpay.protocol.offers import Offer, PaymentLookup, decode_lookup
from machpay.protocol.receipts import Receipt
from tests.protocol.values import AGENT, GATEWAY, NOW, an_intent, an_offer, bytes32, intents, pubkeys, u64

offers = st.builds(
    an_offer,
    program_id=pubkeys,
    mint=pubkeys,
    vendor=pubkeys,
    gateway=pubkeys,
    amount=u64,
    max_timeout_s=st.integers(1, 2**31),
    request_hash=bytes32,
    binding=st.sampled_from(["request", "route"]),
)


def header_of(document: object) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


def required(offer: Offer, error: str = "payment_required") -> x402.PaymentRequired:
    return x402.PaymentRequired(
        x402.VERSION, error, x402.Resource(url="http://127.0.0.1/v1/embed"), [offer.to_requirements()]
    )


@given(offers, st.text(max_size=30))
def test_a_402_round_trips(offer, error):
    value = required(offer, error)
    again = x402.decode_required(x402.encode_header(value))
    assert again == value
    assert Offer.from_requirements(again.accepts[0]) == offer


@given(intents, offers)
def test_a_payment_round_trips(intent, offer):
    payload = x402.build_payload(offer.to_requirements(), AGENT, offer.gateway, intent)
    again = x402.decode_payload(x402.encode_header(payload))
    terms = x402.parse_terms(again.payload)
    assert again == payload
    assert terms.agent == AGENT.public
    assert terms.gateway == offer.gateway
    assert terms.intent(intent.channel) == intent
    assert intent.is_signed_by(AGENT.public, terms.signature)


@given(u64, st.booleans())
def test_a_response_round_trips(amount, success):
    value = x402.PaymentResponse(
        success=success,
        payer=AGENT.pubkey,
        network="solana:x",
        amount=str(amount),
        error_reason=msgspec.UNSET if success else "insufficient_bond",
        extra={"commitmentId": "00" * 32},
    )
    text = x402.encode_header(value)
    assert x402.decode_response(text) == value
    assert ("errorReason" in json.loads(base64.b64decode(text))) is not success


@given(u64, intents)
def test_a_correction_round_trips(total, intent):
    correction = x402.Correction(total, intent.voucher(intent.sign(AGENT)))
    assert x402.parse_correction(json.loads(json.dumps(x402.correction_json(correction)))) == correction
    bare = x402.Correction(total, None)
    assert x402.parse_correction(x402.correction_json(bare)) == bare


def test_no_correction_is_none():
    assert x402.parse_correction({"commitmentId": "00"}) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channel", "x"),
        ("channel", None),
        ("cumulative", "-1"),
        ("cumulative", None),
        ("context", "00" * 15),
        ("context", None),
        ("signature", "AA=="),
        ("signature", None),
    ],
)
def test_each_malformed_field_of_a_corrections_voucher_is_named(field, value):
    intent = an_intent()
    document = x402.correction_json(x402.Correction(1, intent.voucher(intent.sign(AGENT))))
    voucher = dict(document["voucher"])  # type: ignore[call-overload]
    with pytest.raises(MalformedError, match=f"voucher.{field}"):
        x402.parse_correction({**document, "voucher": {**voucher, field: value}})


@pytest.mark.parametrize(
    "extra", [{"committedTotal": None}, {"committedTotal": "-1"}, {"committedTotal": "1", "voucher": 5}]
)
def test_a_malformed_correction_is_refused(extra):
    with pytest.raises(MalformedError):
        x402.parse_correction(extra)


@pytest.mark.parametrize("decode", [x402.decode_required, x402.decode_payload, x402.decode_response])
@pytest.mark.parametrize(
    "header",
    [
        "",
        "é",
        "%%%",
        "e30",
        header_of({}),
        header_of([]),
        header_of(None),
        header_of({"x402Version": 1}),
        base64.b64encode(b"\xff\xfe").decode(),
        base64.b64encode(b'{"x402Version":2,"zz":' + b"[" * 9_000 + b"]" * 9_000 + b"}").decode(),
        "A" * (4 * x402.MAX_HEADER_BYTES + 4),
    ],
)
def test_a_malformed_header_is_malformed_and_nothing_else(decode, header):
    with pytest.raises(MalformedError, match="PAYMENT-"):
        decode(header)


@pytest.mark.parametrize("version", [0, 1, 3])
def test_another_version_is_refused(version):
    document = json.loads(msgspec.json.encode(required(an_offer())))
    with pytest.raises(MalformedError, match="version"):
        x402.decode_required(header_of({**document, "x402Version": version}))


def test_unknown_fields_are_ignored():
    document = json.loads(msgspec.json.encode(required(an_offer())))
    document["accepts"][0]["later"] = {"x": 1}
    document["accepts"][0]["extra"]["later"] = 1
    again = x402.decode_required(header_of({**document, "later": [1]}))
    assert Offer.from_requirements(again.accepts[0]) == an_offer()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("agent", "x"),
        ("gateway", ""),
        ("amount", "-1"),
        ("cumulative", str(U64_MAX + 1)),
        ("nonce", "01a1fd8c-6900-4000-8000-000000000001"),
        ("deadline", -1),
        ("deadline", I64_MAX + 1),
        ("request_hash", "FF" * 32),
        ("signature", "AA=="),
    ],
)
def test_each_malformed_field_of_a_payment_is_named(field, value):
    intent = an_intent()
    payload = x402.inner_payload(AGENT.public, GATEWAY.public, intent, intent.sign(AGENT))
    setattr(payload, field, value)
    name = "requestHash" if field == "request_hash" else field
    with pytest.raises(MalformedError, match=name):
        x402.parse_terms(payload)


@pytest.mark.parametrize(
    "changes",
    [
        {"scheme": "exact"},
        {"asset": "x"},
        {"amount": "1.5"},
        {"pay_to": ""},
        {"max_timeout_seconds": 0},
        {"max_timeout_seconds": -60},
    ],
)
def test_each_malformed_field_of_an_offer_is_refused(changes):
    with pytest.raises(MalformedError):
        Offer.from_requirements(msgspec.structs.replace(an_offer().to_requirements(), **changes))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("programId", "x"),
        ("domain", "x"),
        ("gateway", 5),
        ("intentVersion", 2),
        ("intentVersion", "1"),
        ("intentVersion", True),
        ("requestHash", "00"),
        ("binding", "body"),
        ("binding", ["request"]),
    ],
)
def test_each_malformed_field_of_an_offers_extra_is_named(field, value):
    requirements = an_offer().to_requirements()
    extra = dict(requirements.extra)
    with pytest.raises(MalformedError, match=field):
        Offer.from_requirements(msgspec.structs.replace(requirements, extra={**extra, field: value}))
    del extra[field]
    with pytest.raises(MalformedError, match=field):
        Offer.from_requirements(msgspec.structs.replace(requirements, extra=extra))


def test_an_ordinary_402_stays_below_the_header_limit_with_a_correction():
    offer = an_offer(amount=U64_MAX)
    intent = msgspec.structs.replace(an_intent(), cumulative=U64_MAX)
    requirements = offer.to_requirements()
    requirements.extra.update(
        x402.correction_json(x402.Correction(U64_MAX, intent.voucher(intent.sign(AGENT))))
    )
    value = x402.PaymentRequired(
        x402.VERSION, "cumulative_too_low", x402.Resource(url="http://h/" + "p" * 2_000), [requirements]
    )
    assert len(x402.encode_header(value)) < x402.MAX_HEADER_BYTES


def test_a_lookup_round_trips_with_its_receipt():
    receipt = Receipt(b"\x01" * 32, 200, 5, 10, NOW).sign(GATEWAY)
    raw = msgspec.json.encode(PaymentLookup("01" * 32, "served", False, receipt.to_json()))
    lookup, parsed = decode_lookup(raw)
    assert (lookup.status, parsed) == ("served", receipt)
    assert decode_lookup(b'{"digest":"00","status":"unknown"}')[1] is None


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b'{"digest":"00","status":"paid"}', b'{"digest":"00","status":"void","receipt":{}}']
)
def test_a_malformed_lookup_is_refused(raw):
    with pytest.raises(MalformedError):
        decode_lookup(raw)
