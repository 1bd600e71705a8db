"""What one delivered item has to be, judged by itself."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from apps.payments.verification import MAX_AGE, MAX_AHEAD, Refused, Verified, check_items
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce
from machpay.protocol.settlements import to_item
from tests.payments.factories import NETWORK, Party, Payer

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


@pytest.fixture
def payer() -> Payer:
    return Payer(SigningKey.generate(), Party())


def at(moment: datetime):
    return new_nonce(int(moment.timestamp() * 1000))


def check(payer: Payer, fields: dict[str, Any]) -> Verified | Refused:
    (result,) = check_items(
        [msgspec.Raw(msgspec.json.encode(fields))], network=NETWORK, gateway=payer.gateway.key.public, now=NOW
    )
    return result


def item(payer: Payer, **changes: object) -> dict[str, Any]:
    return {**msgspec.to_builtins(to_item(payer.pay(500, nonce=at(NOW)))), **changes}


def test_a_signed_item_is_verified_with_its_digest_and_nonce_time(payer):
    payment = payer.pay(500, nonce=at(NOW))
    result = check(payer, msgspec.to_builtins(to_item(payment)))

    assert result == Verified(payment, payment.intent.digest, NOW)


def test_the_briefs_six_fields_are_enough(payer):
    full = item(payer)
    names = ("agent", "amount", "nonce", "deadline", "signature", "cumulative", "request_hash")
    result = check(payer, {name: full[name] for name in names})

    assert isinstance(result, Verified)
    assert result.payment.charged == 500
    assert result.payment.receipt is None


@pytest.mark.parametrize(
    "changes",
    [
        {"agent": "not a key"},
        {"amount": -1},
        {"amount": "1.5"},
        {"charged": "501"},
        {"status": "refunded"},
        {"nonce": "7d444840-9dc0-11d1-b245-5ffdce74fad2"},
        {"signature": "AAAA"},
        {"gateway": "11111111111111111111111111111111"},
        {"deadline": "soon"},
        {"cumulative": str(2**64)},
        {"served_at": "9999-12-31T23:59:59-23:59"},
    ],
)
def test_what_does_not_parse_is_malformed_for_good(payer, changes):
    assert check(payer, item(payer, **changes)) == Refused(b"", "malformed")


def test_items_that_are_not_objects_are_malformed(payer):
    results = check_items(
        [msgspec.Raw(b"7"), msgspec.Raw(b"null"), msgspec.Raw(b'"x"')],
        network=NETWORK,
        gateway=payer.gateway.key.public,
        now=NOW,
    )
    assert results == [Refused(b"", "malformed")] * 3


@pytest.mark.parametrize("changes", [{"amount": "501"}, {"cumulative": "501"}, {"request_hash": "11" * 32}])
def test_what_the_agent_did_not_sign_is_refused_for_good(payer, changes):
    result = check(payer, item(payer, **changes))

    assert isinstance(result, Refused)
    assert (result.code, result.retry) == ("invalid_signature", False)


@pytest.mark.parametrize("changes", [{"charged": "499"}, {"http_status": 201}, {"served_total": "9"}])
def test_what_the_gateway_did_not_receipt_is_refused_for_good(payer, changes):
    result = check(payer, item(payer, **changes))

    assert isinstance(result, Refused)
    assert result.code == "invalid_signature"


def test_an_item_of_another_gateway_is_refused(payer):
    stranger = Payer(payer.agent, Party())
    fields = item(stranger)
    del fields["gateway"]
    result = check(payer, fields)
    assert isinstance(result, Refused)
    assert result.code == "invalid_signature"


def test_a_deadline_that_does_not_fit_the_nonce_is_refused(payer):
    payment = payer.pay(500, nonce=at(NOW - timedelta(seconds=1)))
    intent = type(payment.intent)(
        payment.intent.channel, 500, payment.intent.nonce, 500, payment.intent.deadline + 3600, bytes(32)
    )
    fields = item(payer) | {
        "nonce": str(intent.nonce),
        "deadline": intent.deadline,
        "signature": msgspec.to_builtins(intent.sign(payer.agent)),
        "receipt": None,
        "cumulative": "500",
    }
    result = check(payer, fields)
    assert isinstance(result, Refused)
    assert result.code == "nonce_replayed"


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (NOW - MAX_AGE, None),
        (NOW - MAX_AGE - timedelta(milliseconds=1), ("too_old", False)),
        (NOW + MAX_AHEAD, None),
        (NOW + MAX_AHEAD + timedelta(milliseconds=1), ("not_yet", True)),
        # The last millisecond that Python's calendar has.
        (datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC), ("not_yet", True)),
    ],
    ids=["oldest", "one-past-oldest", "furthest-ahead", "one-past-furthest", "calendar's-end"],
)
def test_nonces_outside_what_can_be_stored_are_refused(payer, moment, expected):
    result = check(payer, msgspec.to_builtins(to_item(payer.pay(500, nonce=at(moment)))))

    if expected is None:
        assert isinstance(result, Verified)
        assert result.nonce_time == moment
    else:
        assert isinstance(result, Refused)
        assert (result.code, result.retry) == expected


def test_a_nonce_from_after_the_calendars_end_costs_no_other_item_its_answer(payer):
    beyond = payer.pay(500, nonce=new_nonce(2**48 - 1))
    raw = [msgspec.Raw(msgspec.json.encode(to_item(each))) for each in (beyond, payer.pay(500))]

    first, second = check_items(raw, network=NETWORK, gateway=beyond.gateway, now=datetime.now(UTC))

    assert (isinstance(first, Refused), isinstance(second, Verified)) == (True, True)
    assert first == Refused(beyond.intent.digest, "not_yet", retry=True)
