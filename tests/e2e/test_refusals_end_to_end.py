"""What must not be paid is refused with its code, and nothing moves: not in the gateway, the ledger or the chain."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from machpay.protocol import x402
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce
from machpay.protocol.requests import request_hash
from tests.e2e.conftest import Running, wait_until
from tests.e2e.raw_payments import RawBuyer, altered_nonce, refusal
from tests.support.http import LOCAL

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]


@contextlib.contextmanager
def bonded_buyer(running: Running, agent: str) -> Iterator[RawBuyer]:
    """An agent with a bond and one settled payment, so that every account it could touch exists."""
    gateway = running.demo["gateways"][0]
    assert running.network.network is not None
    buyer = RawBuyer(running.network.keys.get(agent), running.network.network, gateway)
    try:
        channel = str(buyer.intent("/").channel)
        buyer.total = running.charged_on(channel)
        response = buyer.pay(gateway["paid_path"])
        assert response.status_code == 200, response.text
        buyer.total += gateway["price_atomic"]
        # Delivery is in order: once this payment is stored, so is everything that was paid before it.
        wait_until(lambda: running.charged_on(channel) == buyer.total, "the first payment is stored")
        running.settle_everything()
        yield buyer
    finally:
        buyer.close()


@pytest.fixture
def buyer(running: Running) -> Iterator[RawBuyer]:
    with bonded_buyer(running, "agent-4") as buyer:
        yield buyer


@pytest.fixture
def nothing_moves(running: Running, buyer: RawBuyer) -> Iterator[None]:
    """Compares every balance and channel before and after, once a further payment has gone all the way through."""
    before = running.money()
    yield
    price = buyer.gateway["price_atomic"]
    probe = buyer.pay(buyer.gateway["paid_path"])
    assert probe.status_code == 200, probe.text
    channel = str(buyer.intent("/").channel)
    wait_until(
        lambda: running.money().channels[channel][0] >= before.channels[channel][0] + price,
        "the probe is stored",
    )
    running.settle_everything()
    after = running.money()
    # The probe is the only thing that happened: delivery is in order, so anything before it would be here too.
    assert after.channels[channel] == tuple(total + price for total in before.channels[channel])
    assert {a: t for a, t in after.channels.items() if a != channel} == {
        a: t for a, t in before.channels.items() if a != channel
    }
    moved = {name: after.accounts[name] - before.accounts.get(name, 0) for name in after.accounts}
    assert {name[0]: amount for name, amount in moved.items() if amount} == {"bond": -price, "settled": price}
    assert running.trial_balance() == 0


def test_an_unpaid_request_is_challenged(buyer: RawBuyer, nothing_moves: None) -> None:
    path = buyer.gateway["paid_path"]
    response = buyer.challenge(path)
    assert refusal(response) == "payment_required"
    assert response.headers["cache-control"] == "no-store"
    required = x402.decode_required(response.headers[x402.REQUIRED_HEADER])
    (offer,) = required.accepts
    assert offer.scheme == "machpay-bond"
    assert offer.network == buyer.network.caip2
    assert offer.amount == str(buyer.gateway["price_atomic"])
    assert offer.asset == str(buyer.network.mint)
    assert offer.pay_to == buyer.gateway["vendor"]
    assert offer.extra["gateway"] == buyer.gateway["gateway"]
    assert offer.extra["requestHash"] == request_hash("GET", path).hex()
    assert "?" not in required.resource.url


def test_a_replayed_payment_is_answered_again_and_charged_once(buyer: RawBuyer, running: Running) -> None:
    path = buyer.gateway["paid_path"]
    before = running.charged(buyer.gateway["gateway"])
    intent = buyer.intent(path)
    header = buyer.header(path, intent)
    first = buyer.send(path, header)
    again = buyer.send(path, header)
    assert (again.status_code, again.content) == (first.status_code, first.content) == (200, again.content)
    # The same nonce under anything else is a replay.
    assert refusal(buyer.pay(path, nonce=intent.nonce, cumulative=intent.cumulative + 1)) == "nonce_replayed"
    wait_until(
        lambda: running.charged(buyer.gateway["gateway"]) == before + buyer.gateway["price_atomic"],
        "one charge is stored",
    )
    running.settle_everything()
    assert running.charged(buyer.gateway["gateway"]) == before + buyer.gateway["price_atomic"]


@pytest.mark.parametrize("field", ["amount", "cumulative", "deadline", "nonce", "signature"])
def test_a_tampered_payment_is_refused(buyer: RawBuyer, nothing_moves: None, field: str) -> None:
    path = buyer.gateway["paid_path"]
    intent = buyer.intent(path)
    signature = intent.sign(buyer.key)
    if field == "signature":
        signature = signature[:10] + bytes([signature[10] ^ 1]) + signature[11:]
    else:
        changed = {
            "amount": intent.amount + 1,
            "cumulative": intent.cumulative + 1,
            "deadline": intent.deadline + 1,
            "nonce": altered_nonce(intent.nonce),
        }[field]
        intent = buyer.intent(path, **{"nonce": intent.nonce, "deadline": intent.deadline, field: changed})
    assert refusal(buyer.send(path, buyer.header(path, intent, signature=signature))) == "invalid_signature"


def test_an_expired_payment_is_refused(buyer: RawBuyer, nothing_moves: None) -> None:
    path = buyer.gateway["paid_path"]
    past = int(time.time()) - 5
    assert refusal(buyer.pay(path, deadline=past, nonce=new_nonce((past - 30) * 1000))) == "intent_expired"


def test_a_payment_for_another_request_is_refused(buyer: RawBuyer, nothing_moves: None) -> None:
    cheap, dear = buyer.gateway["paid_path"], "/similarity?a=cat&b=dog"
    assert refusal(buyer.send(dear, buyer.header(cheap, buyer.intent(cheap)))) == "request_mismatch"
    # Right request, but only the cheap route's price is signed.
    assert refusal(buyer.pay(dear)) == "amount_too_low"


def test_a_payment_to_another_gateway_is_refused(
    buyer: RawBuyer, running: Running, nothing_moves: None
) -> None:
    path = buyer.gateway["paid_path"]
    other = running.demo["gateways"][1]["gateway"]
    assert refusal(buyer.send(path, buyer.header(path, buyer.intent(path), gateway=other))) == "wrong_gateway"


def test_an_agent_without_a_bond_is_refused(buyer: RawBuyer, running: Running, nothing_moves: None) -> None:
    poor = RawBuyer(SigningKey.generate(), buyer.network, buyer.gateway)
    answer = poor.pay(buyer.gateway["paid_path"])
    poor.close()
    assert refusal(answer) == "insufficient_bond"
    assert running.rows("SELECT 1 FROM payments_channel WHERE agent = %s", poor.key.pubkey) == []


def test_a_payment_below_the_price_is_refused(buyer: RawBuyer, running: Running, nothing_moves: None) -> None:
    path = buyer.gateway["paid_path"]
    small = int(buyer.gateway["price_atomic"]) - 1
    assert refusal(buyer.pay(path, amount=small, cumulative=buyer.total + small)) == "amount_too_low"


def test_a_cumulative_that_does_not_cover_the_price_is_corrected(
    buyer: RawBuyer, nothing_moves: None
) -> None:
    path = buyer.gateway["paid_path"]
    response = buyer.pay(path, cumulative=buyer.total)
    assert refusal(response) == "cumulative_too_low"
    extra = x402.decode_required(response.headers[x402.REQUIRED_HEADER]).accepts[0].extra
    correction = x402.parse_correction(extra)
    assert correction is not None
    assert correction.committed_total == buyer.total
    assert correction.voucher is not None
    assert correction.voucher.is_signed_by(buyer.key.public)
    assert correction.voucher.cumulative == buyer.total
    assert x402.decode_response(response.headers[x402.RESPONSE_HEADER]).extra["committedTotal"] == str(
        buyer.total
    )


def test_of_sixteen_simultaneous_intents_with_one_cumulative_one_is_served(
    buyer: RawBuyer, running: Running
) -> None:
    path = buyer.gateway["paid_path"]
    before = running.charged(buyer.gateway["gateway"])
    headers = [buyer.header(path, buyer.intent(path)) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        responses = list(
            pool.map(
                lambda header: httpx.get(buyer.url + path, headers={x402.SIGNATURE_HEADER: header}, **LOCAL),
                headers,
            )
        )
    assert sorted(r.status_code for r in responses) == [200] + [402] * 15
    assert {refusal(r) for r in responses if r.status_code == 402} == {"cumulative_too_low"}
    price = buyer.gateway["price_atomic"]
    wait_until(lambda: running.charged(buyer.gateway["gateway"]) == before + price, "one charge is stored")
    running.settle_everything()
    assert running.charged(buyer.gateway["gateway"]) == before + price


def test_a_failing_upstream_costs_nothing(running: Running) -> None:
    # An agent of its own: the voucher it raises for nothing would cover other tests' calls.
    with bonded_buyer(running, "agent-5") as buyer:
        channel = str(buyer.intent("/").channel)
        response = buyer.pay("/fail", amount=5_000, cumulative=buyer.total + 5_000)
        assert response.status_code == 500
        answer = x402.decode_response(response.headers[x402.RESPONSE_HEADER])
        assert answer.success is False
        intents = "SELECT status, charged_atomic::bigint FROM payment_intents WHERE channel = %s AND http_status = 500"
        failed = [("VOID", 0)]
        wait_until(
            lambda: running.rows(intents, channel) == failed, "the void intent is stored for its voucher"
        )
        assert running.charged_on(channel) == buyer.total
        # What the failed call authorised covers the next call, which may sign a lower total.
        assert buyer.pay(buyer.gateway["paid_path"], cumulative=buyer.total).status_code == 200
        total = buyer.total + buyer.gateway["price_atomic"]
        wait_until(lambda: running.charged_on(channel) == total, "the next call is stored")


def test_a_malformed_payment_header_is_a_bad_request(buyer: RawBuyer, nothing_moves: None) -> None:
    path = buyer.gateway["paid_path"]
    for header in ("x", "e30=", "!!!!", x402.encode_header(x402.Resource(url="a"))):
        assert buyer.send(path, header).status_code == 400
    assert buyer.http.head(buyer.url + path).status_code == 402
