"""Transactions that never land, are refused, or fail on the chain: the reason is kept and the channels come
free again."""

import asyncio

import pytest
from solana.rpc.async_api import AsyncClient
from solana.rpc.models import TxOpts

from apps.payments.models import Settlement
from apps.payments.services.settlements import DueChannel, store_settlement
from apps.settlement.services import settle as settle_module
from apps.settlement.services.outcome import EXPIRY_MARGIN_BLOCKS, Verdict
from apps.settlement.services.send import Outgoing, send_all
from devnet.offers import LEXICON
from machpay.chain.instructions import ChannelSettlement, settle_cumulative
from machpay.chain.transactions import SignedTransaction
from tests.settlement.conftest import Recon
from tests.support.chain import Payer

NOT_RELAYER = "NotRelayer (0x119): the signer is not the relayer"


@pytest.fixture
def payer(recon: Recon) -> Payer:
    """An agent that owes Lexicon 1,000."""
    (payer,) = recon.payers(1, LEXICON)
    recon.deliver(payer.pay(1_000))
    return payer


def store_refused(recon: Recon, payer: Payer) -> tuple[int, SignedTransaction]:
    """Store a settlement of the payer's channel that the program refuses: its signer is not the relayer."""
    row = recon.channel(payer)
    channel = DueChannel(
        address=row.address,
        agent=row.agent_id,
        gateway=row.gateway_id,
        vendor=row.vendor,
        cumulative_atomic=row.highest_cumulative_atomic,
        context=bytes(row.highest_context or b""),
        signature=bytes(row.highest_signature or b""),
        up_to_atomic=row.charged_total_atomic,
        settled_atomic=row.settled_atomic,
    )
    chain = recon.chain
    vendor = chain.call(lambda client: client.vendor(payer.vendor))
    assert vendor is not None
    stranger = chain.keys.get("admin").keypair()
    instructions = settle_cumulative(
        chain.network,
        relayer=stranger.pubkey(),
        vendor=payer.vendor,
        payout=vendor.payout,
        channels=[
            ChannelSettlement(
                agent=payer.agent.public,
                gateway=payer.gateway.public,
                voucher=channel.voucher,
                up_to=channel.up_to_atomic,
                create=True,
            )
        ],
    )
    signed = chain.call(lambda client: client.sign(instructions, stranger))
    settlement = store_settlement(
        channels=[channel],
        raw_transaction=signed.raw,
        signature=signed.signature,
        last_valid_block_height=signed.last_valid_block_height,
    )
    return settlement, signed


def test_a_refused_first_send_fails_at_once_with_the_programs_reason(recon: Recon, payer: Payer) -> None:
    before = recon.chain.vendor_balance(LEXICON)
    settlement, signed = store_refused(recon, payer)

    taken = recon.run(lambda chain: send_all(chain, [Outgoing(settlement, signed.raw, send_count=0)]))

    assert taken == 0
    (row,) = Settlement.objects.all()
    assert (row.state, row.error, row.send_count) == ("FAILED", NOT_RELAYER, 1)
    channel = recon.channel(payer)
    assert channel.in_flight_id is None
    assert channel.settle_failures == 1
    assert recon.statuses(payer) == ["PENDING"]
    assert recon.chain.vendor_balance(LEXICON) == before
    # It waits before it is planned again, so that a transaction that cannot succeed is not sent in a loop.
    assert recon.settle() == []

    recon.end_backoff()
    recon.settle()
    recon.rest()
    assert recon.states() == ["FAILED", "FINALIZED"]
    assert recon.chain.vendor_balance(LEXICON) - before == 1_000
    assert recon.channel(payer).settle_failures == 0


def test_a_refused_repetition_says_nothing(recon: Recon, payer: Payer) -> None:
    settlement, signed = store_refused(recon, payer)
    Settlement.objects.update(state="SENT", send_count=1)

    recon.run(lambda chain: send_all(chain, [Outgoing(settlement, signed.raw, send_count=1)]))

    (row,) = Settlement.objects.all()
    assert (row.state, row.send_count) == ("SENT", 2)
    assert recon.channel(payer).in_flight_id == settlement


def test_a_send_that_another_worker_began_is_left_to_it(recon: Recon, payer: Payer) -> None:
    settlement, signed = store_refused(recon, payer)
    Settlement.objects.update(state="SENT", send_count=1)

    taken = recon.run(lambda chain: send_all(chain, [Outgoing(settlement, signed.raw, send_count=0)]))

    assert taken == 0
    (row,) = Settlement.objects.all()
    assert (row.state, row.send_count, row.error) == ("SENT", 1, "")


def test_a_transaction_that_failed_on_the_chain_is_failed_once_that_is_final(
    recon: Recon, payer: Payer
) -> None:
    before = recon.chain.vendor_balance(LEXICON)
    _settlement, signed = store_refused(recon, payer)
    Settlement.objects.update(state="SENT", send_count=1)

    async def send_unchecked() -> None:
        async with AsyncClient(recon.chain.rpc_url) as rpc:
            await rpc.send_raw_transaction(signed.raw, TxOpts(skip_preflight=True))

    asyncio.run(send_unchecked())
    recon.chain.wait_until_final()

    assert recon.follow() == {Verdict.FAILED: 1}
    (row,) = Settlement.objects.all()
    assert (row.state, row.error) == ("FAILED", NOT_RELAYER)
    assert recon.channel(payer).in_flight_id is None
    recon.sync()
    assert recon.statuses(payer) == ["PENDING"]
    assert recon.liability(payer.agent) == 1_000
    assert recon.chain.vendor_balance(LEXICON) == before


def test_an_expired_transaction_fails_only_when_it_can_never_land(
    recon: Recon, payer: Payer, monkeypatch
) -> None:
    before = recon.chain.vendor_balance(LEXICON)
    monkeypatch.setattr(settle_module, "send_all", lambda _chain, _outgoing: 0)
    recon.settle()
    monkeypatch.undo()
    (stored,) = Settlement.objects.all()

    recon.chain.wait_for_height(stored.last_valid_block_height + EXPIRY_MARGIN_BLOCKS + 1)
    assert recon.follow() == {Verdict.EXPIRED: 1}

    (row,) = Settlement.objects.all()
    assert (row.state, row.send_count) == ("FAILED", 0)
    assert (
        row.error
        == f"expired: not found in history after block height {row.last_valid_block_height} was final"
    )
    assert recon.chain.vendor_balance(LEXICON) == before

    recon.end_backoff()
    recon.settle()
    recon.rest()
    assert recon.states() == ["FAILED", "FINALIZED"]
    assert recon.chain.vendor_balance(LEXICON) - before == 1_000
    assert recon.statuses(payer) == ["SETTLED"]
