"""Checks of a 402 before anything is signed."""

from dataclasses import replace

import msgspec
import pytest

from machpay.client.errors import ConfigError, GatewayMismatchError, PriceTooHighError
from machpay.client.terms import Call, check_binding, check_gateway, check_price, choose_offer, origin_of
from machpay.protocol.offers import Offer
from machpay.protocol.requests import MAX_BOUND_BODY_BYTES, request_hash, route_hash
from machpay.protocol.x402 import VERSION, PaymentRequired, Requirements, Resource
from tests.sdk.model import GATEWAY, NETWORK, STRANGER

CALL = Call("http://h/a?b=1", "http://h:80", "POST", b"/a?b=1", b"body")
OFFER = Offer(
    network=NETWORK.caip2,
    program_id=NETWORK.program_id,
    mint=NETWORK.mint,
    domain=NETWORK.domain,
    vendor=STRANGER.public,
    gateway=GATEWAY.public,
    amount=1_000,
    max_timeout_s=60,
    request_hash=request_hash("POST", b"/a?b=1", b"body"),
    binding="request",
)
EXACT = Requirements("exact", NETWORK.caip2, "1000", str(NETWORK.mint), STRANGER.pubkey, 60)


def required(*entries: Requirements) -> PaymentRequired:
    return PaymentRequired(VERSION, "payment_required", Resource(url="http://h/a"), list(entries))


def test_the_first_offer_that_fits_is_chosen():
    other = replace(OFFER, program_id=STRANGER.public)
    broken = msgspec.structs.replace(OFFER.to_requirements(), amount="free")
    cheap = replace(OFFER, amount=1)
    entries = [EXACT, broken, *(offer.to_requirements() for offer in (other, OFFER, cheap))]
    assert choose_offer(required(*entries), NETWORK, CALL) == OFFER


def test_other_schemes_alone_are_a_mismatch_that_names_them():
    with pytest.raises(GatewayMismatchError, match=r"\['exact'\], not machpay-bond"):
        choose_offer(required(EXACT), NETWORK, CALL)
    with pytest.raises(GatewayMismatchError):
        choose_offer(required(), NETWORK, CALL)


def test_what_does_not_fit_is_named():
    entry = replace(OFFER, mint=STRANGER.public).to_requirements()
    with pytest.raises(GatewayMismatchError, match=f"token {STRANGER.pubkey}"):
        choose_offer(required(entry), NETWORK, CALL)


def test_a_network_name_cannot_stand_in_for_the_genesis_hash():
    domain = bytearray(bytes(NETWORK.domain))
    domain[-1] ^= 1
    entry = replace(OFFER, domain=type(NETWORK.domain)(bytes(domain))).to_requirements()
    with pytest.raises(GatewayMismatchError, match="genesis hash"):
        choose_offer(required(entry), NETWORK, CALL)


def test_the_hash_is_computed_from_what_we_send():
    check_binding(OFFER, CALL)
    for change in ({"target": b"/a?b=2"}, {"body": b"bodies"}, {"method": "PUT"}):
        with pytest.raises(GatewayMismatchError, match="rewrites"):
            check_binding(OFFER, msgspec.structs.replace(CALL, **change))


def test_a_route_binding_ignores_query_and_body():
    offer = replace(OFFER, binding="route", request_hash=route_hash("POST", b"/a"))
    check_binding(offer, CALL)
    check_binding(offer, msgspec.structs.replace(CALL, target=b"/a?x", body=b""))
    with pytest.raises(GatewayMismatchError):
        check_binding(offer, msgspec.structs.replace(CALL, target=b"/b"))


def test_the_pinned_gateway_is_demanded():
    check_gateway(OFFER, None, CALL)
    check_gateway(OFFER, GATEWAY.public, CALL)
    with pytest.raises(GatewayMismatchError):
        check_gateway(OFFER, STRANGER.public, CALL)


def test_the_limit_itself_may_be_paid():
    check_price(OFFER, 1_000, CALL)
    with pytest.raises(PriceTooHighError):
        check_price(OFFER, 999, CALL)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://Host/x", "http://host:80"),
        ("https://host", "https://host:443"),
        ("HTTP://host:8402/x?y", "http://host:8402"),
        ("http://host:80", "http://host:80"),
        # As a request names them, so that a rule written by a person holds for the calls.
        ("https://bücher.example/x", "https://xn--bcher-kva.example:443"),
        ("http://[::1]:8402/x", "http://[::1]:8402"),
    ],
)
def test_origins_have_one_spelling(url, origin):
    assert origin_of(url) == origin


@pytest.mark.parametrize(
    "url",
    [
        "api.example",
        "127.0.0.1:8402",
        "ftp://host",
        "http://",
        "http://[::",
        "http://host:70000",
        "http://host:0",
        "",
    ],
)
def test_what_names_no_server_is_no_origin(url):
    with pytest.raises(ConfigError):
        origin_of(url)


def test_a_route_is_origin_method_and_path():
    assert CALL.route == ("http://h:80", "POST", b"/a", False)


def test_a_body_too_long_to_be_read_ahead_has_a_price_of_its_own():
    # The gateway binds it otherwise.
    long = msgspec.structs.replace(CALL, body=b"x" * (MAX_BOUND_BODY_BYTES + 1))
    assert long.route == (*CALL.route[:3], True)
    assert msgspec.structs.replace(CALL, body=b"x" * MAX_BOUND_BODY_BYTES).route == CALL.route
