"""What a stock resource server is told by our scheme: prices, deployment, request hash, corrections."""

from types import SimpleNamespace
from typing import Any

import pytest
from x402.http.types import HTTPRequestContext, HTTPTransportContext
from x402.interfaces import SchemePaymentRequiredContext
from x402.schemas import (
    AssetAmount,
    PaymentRequired,
    PaymentRequirements,
    SupportedKind,
    VerifyResponse,
)

from machpay.protocol.keys import SigningKey
from machpay.protocol.requests import route_hash
from machpay.x402 import MachPayServerScheme
from machpay.x402.facilitator import _remembered
from tests.gateway.factories import network

NET = network()
MINT = str(NET.mint)
VENDOR, GATEWAY = (SigningKey(seed * 32).pubkey for seed in (b"v", b"g"))
SCHEME = MachPayServerScheme(NET, {VENDOR: GATEWAY})


@pytest.mark.parametrize(
    ("price", "atomic"),
    [
        ("$0.001", "1000"),
        ("1.5", "1500000"),
        (0.1, "100000"),
        (2, "2000000"),
        (0, "0"),
        ("$0.000001", "1"),
        (AssetAmount(amount="7", asset=MINT), "7"),
        ({"amount": "7", "asset": MINT}, "7"),
    ],
)
def test_prices_become_atomic_units_of_the_networks_token(price, atomic):
    found = SCHEME.parse_price(price, NET.caip2)
    assert (found.amount, found.asset) == (atomic, MINT)


@pytest.mark.parametrize(
    "price",
    ["$0.0000001", "free", "-1", -0.5, "NaN", "Infinity", {"amount": "7", "asset": VENDOR}],
)
def test_what_is_no_price_is_refused(price):
    with pytest.raises(ValueError, match=r"price|token"):
        SCHEME.parse_price(price, NET.caip2)


def test_a_price_on_another_network_is_refused():
    with pytest.raises(ValueError, match="not solana:other"):
        SCHEME.parse_price("$1", "solana:other")


def requirements(**changes: Any) -> PaymentRequirements:
    fields: dict[str, Any] = {
        "scheme": "machpay-bond",
        "network": NET.caip2,
        "asset": MINT,
        "amount": "1000",
        "pay_to": VENDOR,
        "max_timeout_seconds": 60,
        "extra": {"own": "kept"},
    }
    return PaymentRequirements(**{**fields, **changes})


def kind(**extra: str) -> SupportedKind:
    return SupportedKind(x402_version=2, scheme="machpay-bond", network=NET.caip2, extra=extra)


def test_requirements_name_the_deployment_and_the_vendors_gateway():
    enhanced = SCHEME.enhance_payment_requirements(requirements(), kind(), [])
    assert enhanced.extra == {
        "own": "kept",
        "programId": str(NET.program_id),
        "domain": str(NET.domain),
        "gateway": GATEWAY,
        "intentVersion": 1,
        "binding": "route",
    }


def test_a_facilitator_of_another_deployment_and_an_unknown_vendor_are_refused():
    with pytest.raises(ValueError, match="programId"):
        SCHEME.enhance_payment_requirements(requirements(), kind(programId=VENDOR), [])
    with pytest.raises(ValueError, match=f"no gateway of vendor {GATEWAY}"):
        SCHEME.enhance_payment_requirements(requirements(pay_to=GATEWAY), kind(), [])


def enriched(error: str | None, *entries: PaymentRequirements, path: str = "/quote") -> Any:
    adapter: Any = SimpleNamespace()
    required = list(entries or (requirements(),))
    return SCHEME.enrich_payment_required_response(
        SchemePaymentRequiredContext(
            requirements=required,
            resource_info=None,
            error=error,
            payment_required_response=PaymentRequired(accepts=required),
            transport_context=HTTPTransportContext(
                request=HTTPRequestContext(adapter=adapter, path=path, method="GET")
            ),
        )
    )


def test_a_402_binds_the_payment_to_method_and_path_of_its_own_offer_only():
    exact = requirements(scheme="exact", extra={})
    ours, other = enriched("Payment required", requirements(), exact)
    assert ours.extra == {"own": "kept", "requestHash": route_hash("GET", "/quote").hex()}
    assert other.extra == {}


def test_a_refused_total_is_corrected_in_that_402_and_in_no_other():
    _remembered(
        VerifyResponse(
            is_valid=False,
            invalid_reason="cumulative_too_low",
            extra={"committedTotal": "5000", "voucher": {"cumulative": "6000"}, "private": "no"},
        )
    )
    # Requirements that a payment is compared with stay as they were.
    (compared,) = enriched(None)
    assert "committedTotal" not in compared.extra
    (refused,) = enriched("cumulative_too_low")
    assert (refused.extra["committedTotal"], refused.extra["voucher"]) == ("5000", {"cumulative": "6000"})
    assert "private" not in refused.extra
    (following,) = enriched("Payment required")
    assert "committedTotal" not in following.extra


def test_a_valid_payment_forgets_an_earlier_correction():
    _remembered(VerifyResponse(is_valid=False, extra={"committedTotal": "5000"}))
    _remembered(VerifyResponse(is_valid=True))
    (following,) = enriched("Payment required")
    assert "committedTotal" not in following.extra
