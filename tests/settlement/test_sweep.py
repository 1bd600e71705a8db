"""What vendors left of a forfeited bond reaches reporter and treasury by itself, and never before its time."""

from apps.ledger import chart
from apps.ledger.selectors import balance
from apps.payments.models import Settlement
from apps.payments.services import sweeps
from apps.settlement.services.reconcile import reconcile
from apps.settlement.services.sweep import sweep
from devnet.offers import ATLAS, LEXICON
from machpay.protocol.keys import SigningKey
from tests.settlement.conftest import BOND, Recon
from tests.settlement.test_every_way_out import (
    REPORTER_BPS,
    TIMELOCK,
    held,
    pass_time,
    slash,
    wallet_of,
)

SET_ASIDE = BOND * REPORTER_BPS // 10_000


def forfeited(recon: Recon, agent: SigningKey) -> int:
    return balance(chart.forfeited(agent.pubkey, recon.mint))


def test_a_forfeited_bond_is_swept_after_its_vendors_and_its_window(recon: Recon) -> None:
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.catch_up()
    first, second = recon.chain.payer(agent, LEXICON), recon.chain.payer(agent, ATLAS)
    reporter = slash(recon, first, second)
    treasury = wallet_of(recon, recon.chain.keys.get("admin").public)
    recon.catch_up()
    assert recon.run(sweep) == []

    # The window is over, and a vendor still has something to get of it.
    recon.deliver(first.pay(3_000_000))
    pass_time(recon, 2 * TIMELOCK)
    recon.catch_up()
    assert recon.run(sweep) == []
    assert len(recon.settle()) == 1
    assert recon.run(sweep) == []
    recon.rest()
    assert (recon.statuses(first), forfeited(recon, agent)) == (["SLASHED"], BOND - 3_000_000)

    before = held(recon, treasury)
    assert recon.run(sweep) == [agent.pubkey]
    assert recon.run(sweep) == []
    recon.rest()

    row = Settlement.objects.get(kind="SWEEP")
    assert (row.state, row.planned_atomic, row.paid_atomic) == (
        "FINALIZED",
        BOND - 3_000_000,
        BOND - 3_000_000,
    )
    assert forfeited(recon, agent) == 0
    assert balance(chart.swept(agent.pubkey, recon.mint)) == BOND - 3_000_000
    # The reporter's token account did not exist before.
    assert held(recon, wallet_of(recon, reporter.public)) == SET_ASIDE
    assert held(recon, treasury) - before == BOND - 3_000_000 - SET_ASIDE
    assert recon.run(sweep) == []
    assert recon.run(reconcile).ok


def test_of_two_workers_one_stores_the_sweep(recon: Recon) -> None:
    agent = recon.chain.new_agent(bond_atomic=BOND)
    recon.catch_up()

    def store(signature: str) -> int | None:
        return sweeps.store_sweep(
            agent.pubkey,
            planned_atomic=1,
            raw_transaction=b"",
            signature=signature,
            last_valid_block_height=1,
        )

    assert store("a") is not None
    assert store("b") is None
    assert Settlement.objects.filter(kind="SWEEP").count() == 1
