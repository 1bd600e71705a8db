"""A bond that is about to shrink: seen while it is only confirmed, leases revoked, and everybody settled in time."""

from collections.abc import Callable

import pytest
from solders.instruction import Instruction

from apps.payments.models import AgentMirror, ChainIndex, Channel, EnforcementEvent, Lease
from apps.payments.selectors import changes as stream
from apps.payments.services import leases
from apps.payments.services.leases import Granted, Refused, Wish
from apps.settlement.services import settle as settle_module
from apps.settlement.services.watch import watch_confirmed
from devnet.chain import MIN_BOND_ATOMIC
from devnet.offers import ATLAS, LEXICON
from machpay.chain import instructions as build
from machpay.protocol.intents import PaymentIntent
from machpay.protocol.keys import SigningKey
from machpay.protocol.nonces import new_nonce, nonce_unix_ms
from tests.settlement.conftest import BOND, Recon
from tests.support.chain import Payer

CLAIM_DELAY = 43_200


def ask(payer: Payer, amount: int) -> Granted | Refused:
    return leases.grant(
        Wish(
            agent=payer.agent.pubkey,
            channel=str(payer.channel),
            gateway=payer.gateway.pubkey,
            vendor=str(payer.vendor),
            amount=amount,
            intent_amount=amount,
            last_seq=0,
        )
    )


def leased(recon: Recon, amount: int = 10_000) -> tuple[Payer, Payer]:
    """One agent with a lease at two gateways, and a charge at each that is far from worth a settlement."""
    (first,) = recon.payers(1, LEXICON)
    second = recon.chain.payer(first.agent, ATLAS)
    for payer in (first, second):
        assert isinstance(ask(payer, amount), Granted)
        recon.deliver(payer.pay(1_000))
    return first, second


def send_unfinalised(recon: Recon, *steps: Instruction, signers: tuple[SigningKey, ...]) -> None:
    """Confirmed when this returns."""
    admin = recon.chain.keys.get("admin").keypair()
    recon.chain.call(
        lambda client: client.send_and_confirm(list(steps), admin, [key.keypair() for key in signers])
    )


def claim(recon: Recon, payer: Payer, amount: int) -> None:
    vendor = recon.chain.keys.get(f"vendor-{LEXICON.vendor}")
    steps = build.claim_cumulative(
        recon.chain.network,
        claimant=vendor.public,
        vendor=vendor.public,
        agent=payer.agent.public,
        gateway=payer.gateway.public,
        voucher=payer.pay(amount).voucher,
        payer=recon.chain.keys.get("admin").public,
    )
    send_unfinalised(recon, *steps, signers=(vendor,))


def request_withdrawal(recon: Recon, payer: Payer, amount: int) -> None:
    step = build.request_withdrawal(recon.chain.network, agent=payer.agent.public, amount=amount)
    send_unfinalised(recon, step, signers=(payer.agent,))


def slash(recon: Recon, payer: Payer, amount: int) -> None:
    reporter, nonce, halves = SigningKey.generate(), new_nonce(), []
    for offer in (LEXICON, ATLAS):
        half = recon.chain.payer(payer.agent, offer)
        intent = PaymentIntent(
            half.channel, amount, nonce, amount, nonce_unix_ms(nonce) // 1000 + 60, bytes(32)
        )
        halves.append(build.SignedIntent(half.gateway.public, intent, intent.sign(payer.agent)))
    steps = build.slash_equivocation(
        recon.chain.network,
        reporter=reporter.public,
        agent=payer.agent.public,
        first=halves[0],
        second=halves[1],
    )
    send_unfinalised(recon, *steps, signers=(reporter,))


@pytest.mark.parametrize(
    ("reason", "shrink"), [("claim", claim), ("withdrawal", request_withdrawal), ("slash", slash)]
)
def test_what_is_only_confirmed_revokes_leases_and_stops_grants(
    recon: Recon, reason: str, shrink: Callable[[Recon, Payer, int], None]
) -> None:
    first, second = leased(recon)
    bystander = recon.payers(1, LEXICON)[0]
    assert isinstance(ask(bystander, 10_000), Granted)
    cursor = stream.now_cursor()
    assert recon.run(watch_confirmed) == 0

    shrink(recon, first, 20_000_000)
    assert recon.run(watch_confirmed) == 1
    assert recon.run(watch_confirmed) == 0

    agent = first.agent.pubkey
    assert Lease.objects.filter(agent=agent, revoked_reason=reason).count() == 2
    assert Lease.objects.filter(agent=bystander.agent.pubkey, revoked_at=None).count() == 1
    (change,) = stream.changes_since(cursor, gateway=first.gateway.pubkey).changes
    lease_id = str(Lease.objects.get(channel=str(first.channel)).id)
    assert (change.agent, change.revoked) == (agent, [lease_id])
    event = EnforcementEvent.objects.get(agent=agent)
    assert (event.action, event.reason, event.by, event.leases_revoked) == ("ALARM", reason, "chain", 2)
    assert (ask(first, 10), ask(second, 10)) == (Refused("held"), Refused("held"))


def test_everybody_is_settled_before_a_claim_can_unlock(recon: Recon, settings) -> None:
    """An agent empties its bond through a vendor of its own: honest gateways lose nothing."""
    settings.SETTLE_MINIMUM_ATOMIC, settings.SETTLE_MAX_AGE_S = 10**12, 10**6
    own, honest = leased(recon)
    assert recon.settle() == []
    claim(recon, own, 10 * BOND)
    recon.run(watch_confirmed)
    # The honest gateway was still serving when the revocation reached it, and delivers what it charged.
    recon.deliver(honest.pay(9_000))

    assert len(recon.settle()) == 2
    recon.rest()
    assert recon.channel(honest).settled_atomic == 10_000

    # Only now may the claim take the rest.
    with recon.chain.control() as control:
        control.move_clock(CLAIM_DELAY + 1)
    recon.catch_up()
    row = AgentMirror.objects.get(agent=own.agent.pubkey)
    assert row.bond_atomic == BOND - 10_000 - 1_000
    assert Channel.objects.get(address=str(own.channel)).claim_cumulative_atomic == 1_000 + 10 * BOND
    # With the claim in the mirror nothing is held, but nothing is free either.
    assert ask(recon.chain.payer(own.agent, ATLAS), 10) == Refused("revoked")
    lease = Lease.objects.get(channel=str(honest.channel))
    leases.release(lease_id=lease.id, gateway=honest.gateway.pubkey, last_seq=0)
    assert ask(recon.chain.payer(own.agent, ATLAS), 10) == Refused("insufficient_bond")


def test_a_withdrawal_that_is_final_before_anybody_looked_is_noticed_all_the_same(recon: Recon) -> None:
    first, _second = leased(recon)
    request_withdrawal(recon, first, 20_000_000)
    recon.catch_up()
    assert recon.run(watch_confirmed) == 0
    assert Lease.objects.filter(agent=first.agent.pubkey, revoked_reason="withdrawal").count() == 2
    # It is in the mirror already, so what is left may be leased: the bond less the withdrawal.
    for lease in Lease.objects.filter(agent=first.agent.pubkey):
        leases.release(lease_id=lease.id, gateway=lease.gateway_id, last_seq=0)
    room = BOND - 20_000_000 - MIN_BOND_ATOMIC - 2_000
    assert ask(first, room + 1) == Refused("insufficient_bond")
    assert isinstance(ask(first, room), Granted)


def test_a_database_that_begins_on_an_old_chain_raises_no_alarm_about_its_past(recon: Recon) -> None:
    payer = recon.chain.payer(recon.chain.new_agent(bond_atomic=BOND), LEXICON)
    request_withdrawal(recon, payer, 20_000_000)
    recon.chain.wait_until_final()
    ChainIndex.objects.all().delete()
    assert recon.run(watch_confirmed) == 0

    # All accounts are taken over; what led to them is not listed yet.
    recon.sync()

    assert recon.run(watch_confirmed) == 0
    assert not EnforcementEvent.objects.exists()
    assert AgentMirror.objects.get(agent=payer.agent.pubkey).pending_withdrawal_atomic == 20_000_000


def test_charges_without_a_lease_cannot_empty_a_bond_that_is_leased(recon: Recon) -> None:
    (own,) = recon.payers(1, LEXICON)
    honest = recon.chain.payer(own.agent, ATLAS)
    assert isinstance(ask(honest, 30_000_000), Granted)
    # A gateway of the agent's own delivers charges for the whole bond, under no lease; they are stored all the same.
    recon.deliver(own.pay(BOND))
    recon.settle()
    recon.rest()
    assert recon.bond(own.agent) == 30_000_000
    # What was leased is there when it has been charged.
    recon.deliver(honest.pay(30_000_000))
    recon.end_backoff()
    recon.settle()
    recon.rest()
    assert recon.channel(honest).settled_atomic == 30_000_000
    assert recon.bond(own.agent) == 0


def test_a_channel_that_nothing_is_left_for_holds_up_nobody_behind_it(recon: Recon, monkeypatch) -> None:
    own, other = recon.payers(2, LEXICON)
    assert isinstance(ask(recon.chain.payer(own.agent, ATLAS), 30_000_000), Granted)
    # All of the bond that is not leased; what is left of the charges waits.
    recon.deliver(own.pay(BOND))
    recon.settle()
    recon.rest()
    recon.deliver(other.pay(700))

    monkeypatch.setattr(settle_module, "CLAIM_CHANNELS", 1)
    assert len(recon.settle()) == 1
    recon.rest()

    assert (recon.channel(own).settled_atomic, recon.channel(other).settled_atomic) == (20_000_000, 700)


def test_with_the_relayer_gone_no_more_is_lost_than_was_leased_or_unsettled(recon: Recon) -> None:
    own, honest = leased(recon)
    bound = exposure(honest)
    # 1,000 are charged and unsettled, 9,000 leased and not charged.
    assert bound == 10_000

    # From here on nothing settles, watches or revokes. The agent takes everything through a vendor of its own, while
    # the honest gateway serves until its lease is used up.
    claim(recon, own, 10 * BOND)
    late = honest.pay(9_000)
    with recon.chain.control() as control:
        control.move_clock(CLAIM_DELAY + 1)
    vendor = recon.chain.call(lambda client: client.vendor(own.vendor))
    assert vendor is not None
    step = build.execute_claim(
        recon.chain.network,
        vendor=own.vendor,
        payout=vendor.payout,
        agent=own.agent.public,
        gateway=own.gateway.public,
    )
    send_unfinalised(recon, step, signers=())
    recon.catch_up()
    recon.deliver(late)
    recon.settle()
    recon.rest()

    row = recon.channel(honest)
    assert (recon.bond(own.agent), row.settled_atomic) == (0, 0)
    assert row.charged_total_atomic - row.settled_atomic == bound


def exposure(payer: Payer) -> int:
    """What can be taken from the payer's bond on its channel."""
    row = Channel.objects.get(address=str(payer.channel))
    lease = Lease.objects.get(channel=row, state="LIVE")
    return max(row.charged_total_atomic, lease.up_to_atomic) - row.settled_atomic
