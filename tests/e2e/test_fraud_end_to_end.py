"""One nonce, two gateways: real gateways serve both, and the network stops, slashes and pays out, all by itself."""

import time

import pytest

from devnet.chain import bootstrap_chain
from machpay.protocol.nonces import new_nonce
from tests.e2e.conftest import Running, wait_until
from tests.e2e.raw_payments import RawBuyer, refusal

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1500)]

BOND = 20_000_000


def test_an_agent_that_double_spends_is_refused_everywhere_and_slashed(running: Running) -> None:
    network = running.network.network
    assert network is not None
    bootstrap_chain(
        rpc_url=running.network.url("chain"),
        network=network,
        keys=running.network.keys,
        agents=["cheat"],
        bond_atomic=BOND,
    )
    cheat = running.network.keys.get("cheat")
    buyers = [RawBuyer(cheat, network, gateway) for gateway in running.demo["gateways"][:2]]
    nonce = new_nonce()

    def pay(buyer: RawBuyer, **changes: object) -> int:
        answer = buyer.pay(buyer.gateway["paid_path"], **changes)
        if answer.status_code == 200:
            buyer.total += buyer.gateway["price_atomic"]
        return answer.status_code

    def refused_with(buyer: RawBuyer) -> str:
        """The refusal's code; nothing if it was served, or the gateway could not say."""
        answer = buyer.pay(buyer.gateway["paid_path"])
        return refusal(answer) if answer.status_code == 402 else ""

    def status() -> str:
        rows = running.rows("SELECT status FROM payments_agent WHERE agent = %s", cheat.pubkey)
        return str(rows[0][0]) if rows else ""

    # The bond is final before the gateways are asked; an honest payment first opens nothing.
    wait_until(lambda: pay(buyers[0]) == 200, "the first gateway serves the new agent")
    wait_until(lambda: pay(buyers[1]) == 200, "the second gateway serves the new agent")
    deadline = int(time.time()) + 30
    for buyer in buyers:
        assert pay(buyer, nonce=nonce, deadline=deadline) == 200

    # Both served; neither could know. Delivery puts the halves together, and both refuse from then on.
    for buyer in buyers:
        wait_until(
            lambda buyer=buyer: refused_with(buyer) in ("agent_suspended", "agent_slashed"),  # type: ignore[misc]
            f"{buyer.url} refuses the cheat",
        )
    wait_until(lambda: status() == "SLASHED", "the chain has taken the bond")
    for buyer in buyers:
        wait_until(
            lambda buyer=buyer: refused_with(buyer) == "agent_slashed",  # type: ignore[misc]
            f"{buyer.url} knows that the agent is slashed",
        )
        buyer.close()

    (case,) = running.rows(
        "SELECT status, evidence FROM payments_case WHERE kind = 'EQUIVOCATION' AND subject = %s",
        cheat.pubkey,
    )
    assert case[1]["nonce"] == str(nonce)
    wait_until(
        lambda: (
            running.value("SELECT status FROM payments_case WHERE subject = %s", cheat.pubkey) == "UPHELD"
        ),
        "the case is closed",
    )
    # Whoever served it is paid, out of what was forfeited, and every payment has ended.
    open_ = "SELECT count(*) FROM payment_intents WHERE agent = %s AND status IN ('PENDING', 'PROCESSING')"
    wait_until(running.network.delivered, "the relayer has every payment")
    wait_until(lambda: running.value(open_, cheat.pubkey) == 0, "every payment of the cheat has ended")
    ends = running.rows("SELECT DISTINCT status FROM payment_intents WHERE agent = %s", cheat.pubkey)
    assert {end for (end,) in ends} <= {"SETTLED", "SLASHED", "VOID"}
    paid = "SELECT sum(charged_atomic)::bigint, sum(charged_atomic) FILTER (WHERE nonce = %s) FROM payment_intents"
    total, twice = running.rows(paid + " WHERE agent = %s", str(nonce), cheat.pubkey)[0]
    assert twice == sum(buyer.gateway["price_atomic"] for buyer in buyers)
    wait_until(
        lambda: (
            running.value(
                "SELECT balance_atomic::bigint FROM ledger_account WHERE kind = 'forfeited' AND owner = %s",
                cheat.pubkey,
            )
            == BOND - total
        ),
        "the ledger shows what is left",
    )
    assert running.trial_balance() == 0
