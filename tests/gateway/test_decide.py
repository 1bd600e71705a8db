"""Every decision and refusal, without sockets: edges in pairs."""

from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machpay.protocol.errors import RefusalCode
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce
from machpay.protocol.requests import request_hash, route_hash
from machpay.protocol.screening import Reject
from machpay_gateway.decide import Challenge, Decision, Forward, LookUp, admit, decide, is_charged
from tests.gateway.factories import (
    BOND,
    MAX_TIMEOUT_S,
    PRICE,
    make_attempt,
    make_credit,
    make_intent,
    make_offer,
    make_standing,
)

AGENT = SigningKey(b"a" * 32)
GATEWAY = SigningKey(b"g" * 32).public
NOW = 1_800_000_000
NONCE = new_nonce(NOW * 1000)


def judge(
    *,
    intent: dict[str, Any] | None = None,
    attempt: dict[str, Any] | None = None,
    offer: dict[str, Any] | None = None,
    **standing: Any,
) -> Decision:
    """The decision on an honest payment at `NOW`, with what the test changes."""
    fields = {"nonce": NONCE, "deadline": NOW + 30, **(intent or {})}
    payment = make_attempt(AGENT, GATEWAY, make_intent(AGENT, GATEWAY, **fields), **(attempt or {}))
    return decide(payment, make_offer(GATEWAY, **(offer or {})), make_standing(**standing), NOW)


def code(decision: Decision) -> RefusalCode:
    assert isinstance(decision, Reject), decision
    assert decision.detail
    return decision.code


def test_an_honest_payment_is_forwarded_for_the_price() -> None:
    assert judge() == Forward(PRICE)


def test_a_request_without_a_payment_is_challenged() -> None:
    assert decide(None, make_offer(GATEWAY), make_standing(credit=None), NOW) == Challenge(PRICE)


def test_more_than_the_price_may_be_signed_and_only_the_price_is_taken() -> None:
    assert judge(intent={"amount": 10 * PRICE, "cumulative": 10 * PRICE}) == Forward(PRICE)


class TestScreen:
    def test_a_payment_for_another_gateway_is_wrong_gateway(self) -> None:
        other = SigningKey(b"o" * 32).public
        assert code(judge(attempt={"gateway": other})) is RefusalCode.WRONG_GATEWAY

    @pytest.mark.parametrize(
        "changed", [{"scheme": "exact"}, {"network": "solana:other"}, {"asset": SigningKey(b"x" * 32).pubkey}]
    )
    def test_accepted_requirements_of_something_else_are_a_mismatch(self, changed: dict[str, str]) -> None:
        assert code(judge(attempt=changed)) is RefusalCode.REQUEST_MISMATCH

    @pytest.mark.parametrize(
        "bound_to",
        [
            request_hash("GET", "/dear"),
            request_hash("GET", "/paid?x=1"),
            request_hash("POST", "/paid"),
            request_hash("GET", "/paid", b"body"),
            route_hash("GET", "/paid"),
        ],
    )
    def test_a_payment_for_another_request_is_a_mismatch(self, bound_to: bytes) -> None:
        assert code(judge(intent={"bound_to": bound_to})) is RefusalCode.REQUEST_MISMATCH

    def test_an_amount_at_the_price_is_accepted(self) -> None:
        assert judge(intent={"amount": PRICE}) == Forward(PRICE)

    def test_an_amount_one_below_the_price_is_too_low(self) -> None:
        assert code(judge(intent={"amount": PRICE - 1})) is RefusalCode.AMOUNT_TOO_LOW

    def test_a_deadline_one_second_away_is_accepted(self) -> None:
        assert judge(intent={"deadline": NOW + 1}) == Forward(PRICE)

    def test_a_deadline_of_now_has_passed(self) -> None:
        assert code(judge(intent={"deadline": NOW})) is RefusalCode.INTENT_EXPIRED

    def test_a_deadline_at_the_window_edge_is_accepted(self) -> None:
        assert judge(intent={"deadline": NOW + MAX_TIMEOUT_S + 30}) == Forward(PRICE)

    def test_a_deadline_one_past_the_window_is_refused(self) -> None:
        assert code(judge(intent={"deadline": NOW + MAX_TIMEOUT_S + 31})) is RefusalCode.INTENT_EXPIRED

    def test_a_nonce_at_the_edge_of_its_lifetime_is_accepted(self) -> None:
        nonce = new_nonce((NOW + 30 - 630) * 1000)
        assert judge(intent={"nonce": nonce, "deadline": NOW + 30}) == Forward(PRICE)

    @pytest.mark.parametrize("nonce_ms", [(NOW + 30 - 630) * 1000 - 1, (NOW + 30) * 1000 + 1])
    def test_a_nonce_outside_its_lifetime_counts_as_replayed(self, nonce_ms: int) -> None:
        intent = {"nonce": new_nonce(nonce_ms), "deadline": NOW + 30}
        assert code(judge(intent=intent)) is RefusalCode.NONCE_REPLAYED

    @pytest.mark.parametrize("position", [0, 31, 32, 63])
    def test_a_changed_signature_is_invalid(self, position: int) -> None:
        intent = make_intent(AGENT, GATEWAY, nonce=NONCE, deadline=NOW + 30)
        signature = bytearray(intent.sign(AGENT))
        signature[position] ^= 1
        assert code(judge(attempt={"signature": bytes(signature)})) is RefusalCode.INVALID_SIGNATURE

    def test_another_agents_signature_is_invalid(self) -> None:
        assert code(judge(attempt={"agent": SigningKey(b"b" * 32).public})) is RefusalCode.INVALID_SIGNATURE

    @pytest.mark.parametrize(
        "changed", [{"cumulative": 2 * PRICE}, {"amount": PRICE + 1}, {"deadline": NOW + 29}]
    )
    def test_a_changed_field_makes_the_signature_invalid(self, changed: dict[str, int]) -> None:
        signed = make_intent(AGENT, GATEWAY, nonce=NONCE, deadline=NOW + 30)
        assert (
            code(judge(intent=changed, attempt={"signature": signed.sign(AGENT)}))
            is RefusalCode.INVALID_SIGNATURE
        )

    def test_nothing_of_an_unsigned_payment_reaches_the_agents_standing(self) -> None:
        """A stranger without the agent's key learns neither its total nor its credit."""
        decision = judge(attempt={"signature": bytes(64)}, nonce_seen=True, credit=None)
        assert code(decision) is RefusalCode.INVALID_SIGNATURE


class TestAdmit:
    def test_a_seen_nonce_is_replayed(self) -> None:
        assert code(judge(nonce_seen=True)) is RefusalCode.NONCE_REPLAYED

    def test_a_replay_does_not_cause_a_look_up(self) -> None:
        assert code(judge(nonce_seen=True, credit=None)) is RefusalCode.NONCE_REPLAYED

    def test_an_unknown_agent_is_looked_up(self) -> None:
        assert judge(credit=None) == LookUp()

    def test_a_slashed_agent_is_refused(self) -> None:
        assert code(judge(credit=make_credit(status="SLASHED"))) is RefusalCode.AGENT_SLASHED

    def test_a_suspended_agent_is_refused(self) -> None:
        assert code(judge(credit=make_credit(status="SUSPENDED"))) is RefusalCode.AGENT_SUSPENDED

    def test_a_price_at_the_limit_per_call_is_accepted(self) -> None:
        assert judge(credit=make_credit(per_call=PRICE)) == Forward(PRICE)

    def test_a_price_one_above_the_limit_per_call_exceeds_the_budget(self) -> None:
        assert code(judge(credit=make_credit(per_call=PRICE - 1))) is RefusalCode.BUDGET_EXCEEDED

    def test_the_rest_of_the_day_covers_the_price_exactly(self) -> None:
        assert judge(credit=make_credit(remaining_today=PRICE)) == Forward(PRICE)

    def test_one_below_the_rest_of_the_day_exceeds_the_budget(self) -> None:
        assert code(judge(credit=make_credit(remaining_today=PRICE - 1))) is RefusalCode.BUDGET_EXCEEDED

    def test_the_day_counts_what_the_relayer_was_not_told_yet(self) -> None:
        standing: dict[str, Any] = {"highest": 10 * PRICE, "served": 3 * PRICE, "reserved": PRICE}
        told = make_credit(remaining_today=3 * PRICE, charged_total=2 * PRICE)
        assert judge(**standing, credit=told) == Forward(PRICE)
        short = make_credit(remaining_today=3 * PRICE - 1, charged_total=2 * PRICE)
        assert code(judge(**standing, credit=short)) is RefusalCode.BUDGET_EXCEEDED

    def test_a_cumulative_that_just_covers_served_reserved_and_price_is_accepted(self) -> None:
        decision = judge(intent={"cumulative": 6 * PRICE}, served=3 * PRICE, reserved=2 * PRICE)
        assert decision == Forward(PRICE)

    def test_a_cumulative_one_short_is_too_low(self) -> None:
        decision = judge(intent={"cumulative": 6 * PRICE - 1}, served=3 * PRICE, reserved=2 * PRICE)
        assert code(decision) is RefusalCode.CUMULATIVE_TOO_LOW

    def test_an_earlier_higher_voucher_covers_a_lower_cumulative(self) -> None:
        decision = judge(
            intent={"cumulative": PRICE}, highest=6 * PRICE, served=3 * PRICE, reserved=2 * PRICE
        )
        assert decision == Forward(PRICE)

    def test_an_earlier_voucher_one_short_does_not(self) -> None:
        decision = judge(
            intent={"cumulative": PRICE}, highest=6 * PRICE - 1, served=3 * PRICE, reserved=2 * PRICE
        )
        assert code(decision) is RefusalCode.CUMULATIVE_TOO_LOW

    @pytest.mark.parametrize(
        ("field", "owed"), [("pending_withdrawal", 100), ("claims", 100), ("external", 100), ("bond", -100)]
    )
    def test_everything_with_a_claim_on_the_bond_is_subtracted_to_the_unit(
        self, field: str, owed: int
    ) -> None:
        standing: dict[str, Any] = {"highest": BOND, "served": BOND - PRICE - 200, "reserved": 100}
        exact = make_credit(**{field: owed if field != "bond" else BOND + owed})
        over = make_credit(**{field: owed + 1 if field != "bond" else BOND + owed - 1})
        assert judge(intent={"cumulative": BOND}, **standing, credit=exact) == Forward(PRICE)
        assert (
            code(judge(intent={"cumulative": BOND}, **standing, credit=over)) is RefusalCode.INSUFFICIENT_BOND
        )

    def test_what_was_settled_no_longer_counts_against_the_bond(self) -> None:
        standing: dict[str, Any] = {
            "highest": 3 * BOND,
            "served": 2 * BOND,
            "credit": make_credit(settled=2 * BOND - 5),
        }
        assert judge(intent={"cumulative": 3 * BOND}, **standing) == Forward(PRICE)

    def test_a_watermark_ahead_of_the_charges_gives_no_extra_credit_and_takes_none(self) -> None:
        exact, short = (make_credit(bond=PRICE - less, settled=50 * PRICE) for less in (0, 1))
        assert judge(credit=exact) == Forward(PRICE)
        assert code(judge(credit=short)) is RefusalCode.INSUFFICIENT_BOND

    def test_an_agent_without_a_bond_is_refused(self) -> None:
        assert code(judge(credit=make_credit(bond=0))) is RefusalCode.INSUFFICIENT_BOND

    def test_unsettled_up_to_the_cap_is_accepted(self) -> None:
        standing: dict[str, Any] = {"highest": BOND, "served": 3 * PRICE, "reserved": PRICE}
        assert judge(**standing, cap=5 * PRICE) == Forward(PRICE)

    def test_unsettled_one_above_the_cap_is_refused(self) -> None:
        standing: dict[str, Any] = {"highest": BOND, "served": 3 * PRICE, "reserved": PRICE}
        assert code(judge(**standing, cap=5 * PRICE - 1)) is RefusalCode.INSUFFICIENT_BOND

    @given(
        cumulative=st.integers(0, 10_000),
        highest=st.integers(0, 10_000),
        split=st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)),
        price=st.integers(1, 5_000),
        bond=st.integers(0, 20_000),
    )
    def test_forwarding_keeps_served_and_reserved_within_the_signed_total_and_the_bond(
        self, cumulative: int, highest: int, split: tuple[int, int], price: int, bond: int
    ) -> None:
        served, reserved = min(split[0], highest), 0
        reserved = min(split[1], highest - served)
        standing = make_standing(
            highest=highest, served=served, reserved=reserved, credit=make_credit(bond=bond)
        )
        if isinstance(admit(cumulative, price, standing), Forward):
            assert served + reserved + price <= max(highest, cumulative)
            assert served + reserved + price <= bond


class TestLease:
    COMMITTED: ClassVar[dict[str, Any]] = {"highest": 9 * PRICE, "served": 2 * PRICE, "reserved": PRICE}

    def test_a_lease_that_covers_the_price_exactly_is_enough_whatever_the_bond_is(self) -> None:
        credit = make_credit(bond=0, external=BOND, up_to=4 * PRICE)
        assert judge(**self.COMMITTED, credit=credit) == Forward(PRICE)

    def test_one_less_waits_for_a_larger_lease_and_is_refused_if_there_is_none(self) -> None:
        standing = make_standing(**self.COMMITTED, credit=make_credit(up_to=4 * PRICE - 1))
        assert admit(9 * PRICE, PRICE, standing) == LookUp()
        assert code(admit(9 * PRICE, PRICE, standing, asked=True)) is RefusalCode.INSUFFICIENT_BOND

    @pytest.mark.parametrize(
        ("refused", "expected"),
        [
            ("budget_exceeded", RefusalCode.BUDGET_EXCEEDED),
            ("insufficient_bond", RefusalCode.INSUFFICIENT_BOND),
            ("held", RefusalCode.INSUFFICIENT_BOND),
        ],
    )
    def test_without_a_lease_the_relayers_reason_is_the_answer(
        self, refused: str, expected: RefusalCode
    ) -> None:
        assert code(judge(**self.COMMITTED, credit=make_credit(up_to=0, refused=refused))) is expected

    def test_the_networks_cap_counts_what_is_owed_to_all_gateways(self) -> None:
        exact, over = (
            make_credit(external=PRICE, settled=PRICE, network_cap=4 * PRICE - less) for less in (0, 1)
        )
        assert judge(**self.COMMITTED, credit=exact) == Forward(PRICE)
        assert code(judge(**self.COMMITTED, credit=over)) is RefusalCode.INSUFFICIENT_BOND


class TestCharge:
    @pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
    def test_success_is_charged(self, status: int) -> None:
        assert is_charged(status, "GET", charge_4xx=False)

    @pytest.mark.parametrize("status", [300, 301, 304, 307, 399, 500, 502, 503, 599])
    @pytest.mark.parametrize("charge_4xx", [False, True])
    def test_redirects_and_server_errors_never_are(self, status: int, charge_4xx: bool) -> None:
        assert not is_charged(status, "POST", charge_4xx=charge_4xx)

    @pytest.mark.parametrize("status", [400, 404, 422, 499])
    def test_client_errors_are_charged_by_choice_only(self, status: int) -> None:
        assert is_charged(status, "GET", charge_4xx=True)
        assert not is_charged(status, "GET", charge_4xx=False)

    @pytest.mark.parametrize("status", [200, 404])
    def test_head_is_never_charged(self, status: int) -> None:
        assert not is_charged(status, "HEAD", charge_4xx=True)
