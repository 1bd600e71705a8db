"""What each commitment shows, slot by slot, on a chain whose clock the test turns."""

from pathlib import Path

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.system_program import ID as SYSTEM_PROGRAM
from solders.transaction import VersionedTransaction

from contracts.localnet.errors import TransactionRefused
from contracts.localnet.slots import BLOCKHASH_AGE_MAX, Commitment
from tests.localnet.conftest import SOL, SteppedLedger, pay, signed

PROCESSED, CONFIRMED, FINALIZED = Commitment.processed, Commitment.confirmed, Commitment.finalized


def balances(ledger: SteppedLedger, address: Pubkey) -> list[int]:
    """The balance at each commitment, least settled first."""
    return [account.lamports if (account := ledger.account(address, level)) else 0 for level in Commitment]


def transfer(ledger: SteppedLedger, source: Keypair, to: Pubkey, lamports: int) -> VersionedTransaction:
    blockhash, _ = ledger.latest_blockhash(PROCESSED)
    return signed([pay(source, to, lamports)], blockhash, source)


def send(ledger: SteppedLedger, transaction: VersionedTransaction) -> Signature:
    return ledger.send(bytes(transaction), skip_preflight=False)


def test_a_balance_reaches_confirmed_after_one_slot_and_finalized_after_the_lag(
    ledger: SteppedLedger,
) -> None:
    address = Keypair().pubkey()
    ledger.airdrop(address, SOL)
    seen = []
    for _ in range(6):
        seen.append(balances(ledger, address))
        ledger.step()
    assert seen == [
        [SOL, 0, 0],
        [SOL, SOL, 0],
        [SOL, SOL, 0],
        [SOL, SOL, 0],
        [SOL, SOL, SOL],
        [SOL, SOL, SOL],
    ]


def test_changes_in_successive_slots_are_each_seen_at_their_own_slot(ledger: SteppedLedger) -> None:
    address = Keypair().pubkey()
    for _ in range(5):
        ledger.airdrop(address, SOL)
        ledger.airdrop(address, SOL)
        ledger.step()
    assert balances(ledger, address) == [10 * SOL, 10 * SOL, 4 * SOL]
    ledger.step(3)
    assert balances(ledger, address) == [10 * SOL, 10 * SOL, 10 * SOL]


def test_an_emptied_account_is_still_there_for_older_views(ledger: SteppedLedger) -> None:
    owner, other = Keypair(), Keypair().pubkey()
    ledger.airdrop(owner.pubkey(), SOL)
    ledger.step(5)
    send(ledger, transfer(ledger, owner, other, SOL - 5_000))
    ledger.step()
    assert balances(ledger, owner.pubkey()) == [0, 0, SOL]
    owned = [{address for address, _ in ledger.owned_by(SYSTEM_PROGRAM, level)} for level in Commitment]
    assert [owner.pubkey() in addresses for addresses in owned] == [False, False, True]
    assert [other in addresses for addresses in owned] == [True, True, False]
    ledger.step(3)
    assert balances(ledger, owner.pubkey()) == [0, 0, 0]
    assert owner.pubkey() not in {address for address, _ in ledger.owned_by(SYSTEM_PROGRAM, FINALIZED)}


def test_a_status_rises_with_its_slot(ledger: SteppedLedger) -> None:
    signature = ledger.airdrop(Keypair().pubkey(), SOL)
    status = ledger.status(signature, search_history=False)
    assert status is not None
    assert status.err is None
    seen = []
    for _ in range(6):
        seen.append(ledger.commitment_of(status.slot))
        ledger.step()
    assert seen == [PROCESSED, CONFIRMED, CONFIRMED, CONFIRMED, FINALIZED, FINALIZED]


def test_a_transaction_is_readable_once_its_slot_has_the_commitment(ledger: SteppedLedger) -> None:
    signature = ledger.airdrop(Keypair().pubkey(), SOL)
    assert ledger.transaction(signature, CONFIRMED) is None
    ledger.step()
    assert ledger.transaction(signature, CONFIRMED) is not None
    assert ledger.transaction(signature, FINALIZED) is None
    ledger.step(3)
    assert ledger.transaction(signature, FINALIZED) is not None


def test_a_blockhash_is_good_at_its_last_valid_height_and_expired_one_past_it(ledger: SteppedLedger) -> None:
    payer, to = Keypair(), Keypair().pubkey()
    ledger.airdrop(payer.pubkey(), SOL)
    blockhash, last_valid = ledger.latest_blockhash(PROCESSED)
    assert last_valid == ledger.slot(PROCESSED) + 150
    in_time, too_late = (
        signed([pay(payer, to, amount)], blockhash, payer) for amount in (1_000_000, 2_000_000)
    )
    ledger.step(BLOCKHASH_AGE_MAX)
    assert ledger.slot(PROCESSED) == last_valid
    assert ledger.is_blockhash_valid(blockhash, PROCESSED)
    send(ledger, in_time)
    ledger.step()
    assert not ledger.is_blockhash_valid(blockhash, PROCESSED)
    with pytest.raises(TransactionRefused) as refused:
        send(ledger, too_late)
    assert refused.value.outcome.err == "BlockhashNotFound"
    signature = ledger.send(bytes(too_late), skip_preflight=True)
    assert ledger.status(signature, search_history=True) is None
    ledger.step(4)
    assert balances(ledger, to) == [1_000_000] * 3


def test_a_duplicate_is_refused_for_as_long_as_its_blockhash_lives(ledger: SteppedLedger) -> None:
    payer, to = Keypair(), Keypair().pubkey()
    ledger.airdrop(payer.pubkey(), SOL)
    once = transfer(ledger, payer, to, 1_000_000)
    send(ledger, once)
    for slots, expected in (
        (0, "AlreadyProcessed"),
        (BLOCKHASH_AGE_MAX, "AlreadyProcessed"),
        (1, "BlockhashNotFound"),
    ):
        ledger.step(slots)
        with pytest.raises(TransactionRefused) as refused:
            send(ledger, once)
        assert refused.value.outcome.err == expected
        ledger.send(bytes(once), skip_preflight=True)
        assert balances(ledger, to)[PROCESSED] == 1_000_000


def test_status_of_an_old_transaction_needs_the_history(ledger: SteppedLedger) -> None:
    signature = ledger.airdrop(Keypair().pubkey(), SOL)
    ledger.step(BLOCKHASH_AGE_MAX)
    assert ledger.status(signature, search_history=False) is not None
    ledger.step()
    assert ledger.status(signature, search_history=False) is None
    assert ledger.status(signature, search_history=True) is not None


def test_programs_see_the_moved_clock_and_slots_do_not(ledger: SteppedLedger) -> None:
    clock = Pubkey.from_string("SysvarC1ock11111111111111111111111111111111")

    def sysvar() -> tuple[int, int]:
        account = ledger.account(clock, PROCESSED)
        assert account is not None
        return int.from_bytes(account.data[0:8], "little"), int.from_bytes(account.data[32:40], "little")

    slot, now = sysvar()
    assert (slot, now) == (ledger.slot(PROCESSED), 1_700_000_000)
    ledger.move_clock(86_400)
    assert sysvar() == (slot, now + 86_400)
    ledger.step(3)
    assert sysvar() == (slot + 3, now + 86_403)


def test_a_restart_keeps_genesis_accounts_clock_and_duplicates_and_never_goes_back(tmp_path: Path) -> None:
    payer, to = Keypair(), Keypair().pubkey()
    first = SteppedLedger(tmp_path / "chain")
    first.airdrop(payer.pubkey(), SOL)
    first.move_clock(100)
    once = transfer(first, payer, to, 1_000_000)
    signature = send(first, once)
    slot, genesis = first.slot(PROCESSED), first.genesis_hash
    first.close()

    second = SteppedLedger(tmp_path / "chain")
    assert second.genesis_hash == genesis
    assert second.slot(FINALIZED) > slot
    assert balances(second, to) == [1_000_000] * 3
    assert second.clock.offset_s == 100
    status = second.status(signature, search_history=False)
    assert status is not None
    assert status.slot == slot
    with pytest.raises(TransactionRefused, match="already been processed"):
        send(second, once)
    # The block hash of before is still known: hashes follow from genesis and slot.
    send(second, signed([pay(payer, to, 3_000_000)], once.message.recent_blockhash, payer))
    assert balances(second, to)[PROCESSED] == 4_000_000
    second.close()


def test_two_fresh_chains_differ(tmp_path: Path) -> None:
    one, two = SteppedLedger(tmp_path / "one"), SteppedLedger(tmp_path / "two")
    assert one.genesis_hash != two.genesis_hash
    one.close()
    two.close()
