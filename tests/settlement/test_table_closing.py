"""Idle lookup tables give their rent back; one that is needed, or that another worker changes, stays."""

from datetime import timedelta
from io import StringIO

from django.core.management import call_command
from django.db import transaction
from django.utils import timezone
from solders.pubkey import Pubkey

from apps.payments.models import Channel, LookupTable, LookupTableEntry
from apps.payments.selectors.lookup_tables import idle_tables
from apps.payments.services.lookup_tables import retire_tables
from devnet.offers import LEXICON
from machpay.chain.lookup_tables import CLOSABLE_AFTER_SLOTS
from machpay.chain.lookup_tables import LookupTable as ChainTable
from tests.settlement.conftest import Recon
from tests.settlement.test_tables import extend_until_listed, tables_used


def close(*arguments: str) -> list[list[str]]:
    """Run the command; its lines, split."""
    out = StringIO()
    call_command("close_tables", *arguments, stdout=out)
    return [line.split() for line in out.getvalue().splitlines()]


def on_chain(recon: Recon, address: str) -> ChainTable | None:
    return recon.chain.call(lambda client: client.lookup_table(Pubkey.from_string(address)))


def listed(recon: Recon) -> str:
    """Three channels in one table, settled from it; all of it half a year ago. Returns the table's address."""
    payers = recon.payers(3, LEXICON)
    for payer in payers:
        recon.deliver(payer.pay(1_000))
    extend_until_listed(recon, payers)
    recon.settle()
    recon.rest()
    assert tables_used() == [1]
    then = timezone.now() - timedelta(days=180)
    LookupTable.objects.update(created_at=then)
    Channel.objects.update(last_payment_at=then)
    return LookupTable.objects.get().address


def test_an_idle_table_is_dropped_then_deactivated_then_closed(recon: Recon) -> None:
    address = listed(recon)
    close("--yes", "--idle-days", "0")  # what other tests of this chain left
    assert (LookupTable.objects.count(), LookupTableEntry.objects.count()) == (0, 0)
    table = on_chain(recon, address)
    assert table is not None
    assert not table.is_active
    assert ["wait", "about"] in [line[1:3] for line in close("--yes") if line[0] == address]
    assert on_chain(recon, address) == table

    with recon.chain.control() as control:
        control.advance_slots(CLOSABLE_AFTER_SLOTS + 1)
    recon.chain.wait_until_final()
    rent = recon.chain.call(lambda client: client.lamports(Pubkey.from_string(address)))
    (line,) = [line for line in close() if line[0] == address]
    assert line == [address, "close", f"0.{rent:09d}", "SOL"]
    assert on_chain(recon, address) == table

    assert line in close("--yes")
    assert on_chain(recon, address) is None
    assert address not in [line[0] for line in close("--yes")]


def test_a_dry_run_says_what_would_go_and_changes_nothing(recon: Recon) -> None:
    address = listed(recon)
    assert [address, "deactivate"] in [line[:2] for line in close("--idle-days", "30")]
    assert LookupTable.objects.get().address == address
    table = on_chain(recon, address)
    assert table is not None
    assert table.is_active


def test_a_table_stays_while_one_of_its_channels_is_in_use(recon: Recon) -> None:
    address = listed(recon)
    since = timezone.now() - timedelta(days=90)
    assert idle_tables(since) == [address]
    uses = (
        {"last_payment_at": timezone.now()},
        {"unsettled_since": timezone.now(), "credited_atomic": 2_000},
        {"owed_atomic": 1},
    )
    entries = LookupTableEntry.objects.values("address")
    (channel, *_) = Channel.objects.filter(address__in=entries)
    for use in uses:
        with transaction.atomic():
            Channel.objects.filter(address=channel.address).update(**use)
            assert idle_tables(since) == []
            transaction.set_rollback(True)
    assert idle_tables(timezone.now() - timedelta(days=181)) == []
    LookupTable.objects.update(pending_length=100, pending_until_height=1)
    assert retire_tables(since) == 0
    assert LookupTable.objects.get().address == address


def test_after_its_table_is_gone_a_vendor_is_settled_without_one_and_listed_anew(recon: Recon) -> None:
    address = listed(recon)
    assert retire_tables(timezone.now() - timedelta(days=90)) == 1
    payers = recon.payers(3, LEXICON)
    for payer in payers:
        recon.deliver(payer.pay(500))
    recon.settle()
    recon.rest()
    assert tables_used() == [1, 0, 0]
    for payer in payers:
        recon.deliver(payer.pay(500))
    extend_until_listed(recon, payers)
    assert LookupTable.objects.get().address != address
