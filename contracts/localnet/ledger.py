"""The chain: slots, accounts as of each commitment, transactions and their statuses, made durable together.

One thread. Everything here happens at once and in memory; what it changed is on disk after `commit()`, which
the RPC calls before it answers.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from solders.account import Account
from solders.hash import Hash
from solders.pubkey import Pubkey
from solders.signature import Signature
from solders.transaction import VersionedTransaction

from contracts.localnet.bank import Bank, Outcome
from contracts.localnet.errors import BadSignature, ChainBroken, MalformedTransaction, TransactionRefused
from contracts.localnet.faucet import Faucet
from contracts.localnet.faults import Faults
from contracts.localnet.held import Held, HeldBack
from contracts.localnet.slots import BLOCKHASH_AGE_MAX, Blockhashes, Commitment, SlotClock, last_valid_height
from contracts.localnet.storage import TRANSACTIONS_KEPT, Storage, StoredTransaction
from contracts.localnet.transactions import AccountKeys, account_keys, decode, meta_json
from contracts.localnet.versions import Versions


@dataclass(frozen=True, slots=True)
class Status:
    """Where a landed transaction stands. `err` is a TransactionError as JSON, None on success."""

    slot: int
    err: Any


@dataclass(frozen=True, slots=True)
class Landed:
    """What one landed transaction did. `err` as in `Status`; `changed` holds the state it left accounts in."""

    slot: int
    signature: Signature
    err: Any
    logs: list[str]
    addresses: list[Pubkey]
    changed: dict[Pubkey, Account | None]


@dataclass(frozen=True, slots=True)
class Program:
    """A program to deploy at start; its file wins over what the chain remembers."""

    program_id: Pubkey
    elf: bytes
    upgrade_authority: Pubkey | None


class Ledger:
    """One chain over one state folder. Raises the errors of `contracts.localnet.errors`.

    `wall` and `steady` are where its time comes from: seconds of the day's clock, and of one that never goes back.
    `on_landed`, when set, is told of every transaction that lands, before it is durable.
    """

    def __init__(
        self,
        folder: Path,
        *,
        slot_ms: int = 200,
        finalized_lag: int = 4,
        transactions_kept: int = TRANSACTIONS_KEPT,
        programs: Iterable[Program] = (),
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._storage = Storage(folder / "chain.sqlite3", transactions_kept)
        self._bank = Bank()
        self._versions = Versions()
        self._recent: dict[Signature, Status] = {}
        self.faults = Faults()
        self._held_back = HeldBack()
        self.on_landed: Callable[[Landed], None] | None = None
        genesis = self._storage.fact("genesis_hash")
        self.genesis_hash = Hash.from_string(genesis) if genesis else Hash(secrets.token_bytes(32))
        self.clock = SlotClock(
            anchor_slot=self._first_slot(wall, slot_ms, finalized_lag),
            slot_ms=slot_ms,
            finalized_lag=finalized_lag,
            offset_s=int(self._storage.fact("clock_offset_s") or 0),
            wall=wall,
            steady=steady,
        )
        self._mark_time(self.clock.anchor_slot)
        self._blockhashes = Blockhashes(self.genesis_hash)
        self._restore(programs)
        self._faucet = Faucet(self._storage, self._bank)
        self._storage.set_fact("genesis_hash", str(self.genesis_hash))
        self._slot = -1
        self._slot_hashes_at = -1
        self.advance()
        self.commit()

    # Time

    def advance(self) -> None:
        """Move to the slot the clock says, landing on the way what was delayed; call before serving anything."""
        newest = self.clock.slot()
        while (held := self._held_back.take_due(newest)) is not None:
            self._enter(held.due)
            if self._blocked(held.transaction) is None:
                self._land(held.transaction, held.raw, held.hidden_slots)
        self._enter(newest)

    def _enter(self, slot: int) -> None:
        if slot <= self._slot:
            return
        self._slot = slot
        self._blockhashes.advance(slot)
        self._versions.forget_through(self.slot(Commitment.finalized))
        self._set_clock()
        for signature, status in list(self._recent.items()):
            # In the order they landed: the first young one ends it.
            if slot <= last_valid_height(status.slot):
                break
            del self._recent[signature]

    def move_clock(self, seconds: int) -> None:
        """Move the time that programs see, forward or back; kept across restarts. Slots are not affected."""
        self.clock.offset_s += seconds
        self._storage.set_fact("clock_offset_s", str(self.clock.offset_s))
        self._set_clock()
        self._mark_time(self._slot)

    def skip_slots(self, slots: int) -> None:
        """Let `slots` slots pass at once; kept across restarts. The time that programs see is not affected."""
        self.clock.skip(slots)
        self.advance()
        self._storage.set_fact("anchor", _anchor(self._slot, self.clock.wall_ms(), self.clock.slot_ms))
        self._mark_time(self._slot)

    def hold_finality(self) -> None:
        """Keep the finalized slot where it is until `release_finality`."""
        self.faults.finality_held_at = self.slot(Commitment.finalized)

    def release_finality(self) -> None:
        """Let the finalized slot catch up at once."""
        self.faults.finality_held_at = None
        self._versions.forget_through(self.slot(Commitment.finalized))

    def waiting_count(self) -> int:
        """Return how many delayed transactions have not landed yet."""
        return self._held_back.waiting_count

    def clear_faults(self) -> None:
        """Undo every fault: what was delayed lands now, what was hidden is seen, finality catches up."""
        self.faults.clear()
        self._held_back.clear()
        self.release_finality()
        self.advance()

    def slot(self, commitment: Commitment) -> int:
        """Return the newest slot at this commitment; it is the block height too."""
        slot = max(self._slot - self.clock.slots_behind(commitment), 0)
        held_at = self.faults.finality_held_at
        if held_at is not None and commitment is Commitment.finalized:
            return min(slot, held_at)
        return slot

    def block_time(self, slot: int) -> int:
        """Return the unix seconds of a slot's block, as programs saw them."""
        return self._storage.block_time(slot)

    def blockhash(self, slot: int) -> Hash:
        """Return the hash of a slot's block, however old."""
        return self._blockhashes.of(slot)

    def commitment_of(self, slot: int) -> Commitment:
        """Return how settled a slot is."""
        return max(level for level in Commitment if slot <= self.slot(level))

    def latest_blockhash(self, commitment: Commitment) -> tuple[Hash, int]:
        """Return the newest blockhash and the last block height at which it may be used."""
        slot = self.slot(commitment)
        return self._blockhashes.of(slot), last_valid_height(slot)

    def is_blockhash_valid(self, blockhash: Hash, commitment: Commitment) -> bool:
        """Whether a transaction naming this hash may still land, as that commitment sees it."""
        slot = self._blockhashes.slot_of(blockhash)
        return slot is not None and slot <= self.slot(commitment)

    # Accounts

    def account(self, address: Pubkey, commitment: Commitment) -> Account | None:
        """Return an account as it was at the end of the commitment's slot, or None."""
        if commitment is not Commitment.processed:
            earlier = self._versions.find(self.slot(commitment), address)
            if earlier is not None:
                return earlier[0]
        return self._bank.account(address)

    def owned_by(self, program: Pubkey, commitment: Commitment) -> list[tuple[Pubkey, Account]]:
        """Return every account of a program as of the commitment's slot, in the order of their addresses."""
        accounts: dict[Pubkey, Account | None] = dict(self._bank.owned_by(program))
        if commitment is not Commitment.processed:
            accounts |= self._versions.changed_after(self.slot(commitment))
        owned = [
            (key, account)
            for key, account in accounts.items()
            if account is not None and account.owner == program
        ]
        return sorted(owned, key=lambda entry: bytes(entry[0]))

    def rent_exempt_minimum(self, size: int) -> int:
        """Return the lamports an account of `size` bytes must hold."""
        return self._bank.rent_exempt_minimum(size)

    # Transactions

    def send(self, raw: bytes, *, skip_preflight: bool) -> Signature:
        """Run a transaction in the open slot and return its signature.

        With preflight, one that would fail is refused (BadSignature, TransactionRefused) and leaves no trace.
        Without, a failing one lands and pays its fee, and one that no block may contain is dropped: its
        status stays unknown. Bytes that are no transaction raise MalformedTransaction either way.
        """
        transaction = decode(raw)
        signature = transaction.signatures[0]
        blocked = self._blocked(transaction)
        if not skip_preflight:
            trial = self.simulate(transaction, verify=True)
            if trial.err is not None:
                raise TransactionRefused(trial)
        if blocked is None and not self._held_back.is_waiting(signature):
            fate = self.faults.take_send()
            if fate.delay_slots:
                due = self._slot + fate.delay_slots
                self._held_back.add(Held(due, transaction, raw, fate.hidden_slots))
            elif not fate.dropped:
                self._land(transaction, raw, fate.hidden_slots)
        return signature

    def simulate(
        self, transaction: VersionedTransaction, *, verify: bool, any_blockhash: bool = False
    ) -> Outcome:
        """Run a transaction on the newest state and keep nothing. Raises BadSignature, MalformedTransaction."""
        self._prepare()
        outcome = self._bank.simulate(transaction, verify=verify)
        if outcome.err == "SignatureFailure":
            raise BadSignature("Transaction signature verification failure")
        if outcome.err == "SanitizeFailure":
            raise MalformedTransaction(
                "invalid transaction: Transaction failed to sanitize accounts offsets correctly"
            )
        blocked = None if any_blockhash else self._blocked(transaction)
        return outcome if blocked is None else _not_run(blocked)

    def airdrop(self, address: Pubkey, lamports: int) -> Signature:
        """Send lamports from the faucet; the signature is of an ordinary transfer."""
        transaction = self._faucet.transfer(address, lamports, self.latest_blockhash(Commitment.processed)[0])
        trial = self.simulate(transaction, verify=True)
        if trial.err is not None:
            raise TransactionRefused(trial)
        # Past the faults: those are for what is sent.
        self._land(transaction, bytes(transaction))
        return transaction.signatures[0]

    def status(self, signature: Signature, *, search_history: bool) -> Status | None:
        """Return the status of a recent transaction, or with `search_history` of any kept one."""
        if self._held_back.hides(signature, self._slot):
            return None
        status = self._recent.get(signature)
        if status is None and search_history:
            stored = self._storage.transaction(signature)
            if stored is not None:
                status = Status(stored.slot, json.loads(stored.err) if stored.err else None)
        return status

    def transaction(self, signature: Signature, commitment: Commitment) -> StoredTransaction | None:
        """Return a kept transaction once its slot has reached the commitment."""
        stored = self._storage.transaction(signature)
        if stored is None or stored.slot > self.slot(commitment):
            return None
        return None if self._held_back.hides(signature, self._slot) else stored

    def transactions_of(
        self,
        address: Pubkey,
        commitment: Commitment,
        *,
        before: Signature | None,
        until: Signature | None,
        limit: int,
    ) -> list[StoredTransaction]:
        """Return kept transactions that mention an address, newest first."""
        found = self._storage.transactions_of(
            address, through_slot=self.slot(commitment), before=before, until=until, limit=limit
        )
        return [entry for entry in found if not self._held_back.hides(entry.signature, self._slot)]

    def transactions_in(self, slot: int) -> list[StoredTransaction]:
        """Return the transactions of a slot whose block is kept, in the order they ran."""
        found = self._storage.transactions_in(slot)
        return [entry for entry in found if not self._held_back.hides(entry.signature, self._slot)]

    def first_block(self) -> int:
        """Return the first slot of which every transaction is kept."""
        return self._storage.first_whole_slot()

    def transaction_count(self) -> int:
        """Return how many transactions have landed since genesis."""
        return self._storage.transaction_count()

    def account_keys(self, transaction: VersionedTransaction) -> AccountKeys:
        """Return the addresses of a transaction, with its lookup tables as they are now."""
        return account_keys(transaction, self._bank.account)

    def commit(self) -> None:
        """Make everything done so far durable."""
        self._storage.commit()

    def close(self) -> None:
        """Commit and close the file."""
        self._storage.close()

    def _blocked(self, transaction: VersionedTransaction) -> str | None:
        if transaction.signatures[0] in self._recent:
            return "AlreadyProcessed"
        if self._blockhashes.slot_of(transaction.message.recent_blockhash) is None:
            return "BlockhashNotFound"
        return None

    def _prepare(self) -> None:
        """Bring the sysvars that only programs read up to the open slot."""
        if self._slot_hashes_at != self._slot:
            self._slot_hashes_at = self._slot
            self._bank.set_slot_hashes(self._blockhashes.before(self._slot))

    def _land(self, transaction: VersionedTransaction, raw: bytes, hidden_slots: int = 0) -> None:
        self._prepare()
        keys = self.account_keys(transaction)
        before = {key: self._bank.account(key) for key in keys.writable}
        lamports_before = [self._bank.lamports(key) for key in keys.all]
        outcome = self._bank.execute(transaction)
        if not outcome.landed:
            return
        try:
            self._write_down(transaction, raw, keys, before, lamports_before, outcome)
        except Exception as error:
            raise ChainBroken(f"transaction {transaction.signatures[0]} ran but was not kept") from error
        if hidden_slots:
            self._held_back.hide(transaction.signatures[0], self._slot + hidden_slots)

    def _write_down(
        self,
        transaction: VersionedTransaction,
        raw: bytes,
        keys: AccountKeys,
        before: dict[Pubkey, Account | None],
        lamports_before: list[int],
        outcome: Outcome,
    ) -> None:
        after = {key: self._bank.account(key) for key in keys.writable}
        changed = {key: account for key, account in after.items() if account != before[key]}
        for key, account in changed.items():
            self._versions.keep(self._slot, key, before[key])
            self._storage.set_account(key, account)
        signature = transaction.signatures[0]
        self._recent[signature] = Status(self._slot, outcome.err)
        self._storage.add_transaction(
            signature=signature,
            slot=self._slot,
            block_time=self._unix_timestamp,
            err=None if outcome.err is None else msgspec.json.encode(outcome.err).decode(),
            raw=raw,
            meta=meta_json(
                outcome=outcome,
                keys=keys,
                lamports_before=lamports_before,
                lamports_after=[self._bank.lamports(key) for key in keys.all],
                before=before,
                after=after,
                get_account=self._bank.account,
            ),
            addresses=keys.all,
        )
        if self.on_landed is not None:
            landed = Landed(self._slot, signature, outcome.err, outcome.logs, keys.all, changed)
            self.on_landed(landed)

    def _set_clock(self) -> None:
        self._unix_timestamp = self.clock.unix_timestamp()
        self._bank.set_clock(self._slot, self._unix_timestamp)

    def _mark_time(self, slot: int) -> None:
        self._storage.add_time_mark(slot, self.clock.slot_start_ms(), self.clock.slot_ms)

    # Start-up

    def _first_slot(self, wall: Callable[[], float], slot_ms: int, finalized_lag: int) -> int:
        """Continue where the wall clock says the chain would be, past every slot that was ever answered.

        At least a finalisation behind the last transaction: a restart never shows one less settled than it was.
        """
        wall_ms = int(wall() * 1000)
        slot = finalized_lag
        anchor = self._storage.fact("anchor")
        if anchor is not None:
            then_slot, then_ms, then_slot_ms = json.loads(anchor)
            elapsed = then_slot + (wall_ms - then_ms) // then_slot_ms
            slot = max(elapsed, then_slot, self._storage.last_slot()) + finalized_lag + 1
        self._storage.set_fact("anchor", _anchor(slot, wall_ms, slot_ms))
        return slot

    def _restore(self, programs: Iterable[Program]) -> None:
        deployed: set[Pubkey] = set()
        for program in programs:
            deployed.update(
                self._bank.load_program(program.program_id, program.elf, program.upgrade_authority)
            )
        accounts = [
            (address, account) for address, account in self._storage.accounts() if address not in deployed
        ]
        # A program can only be put once the account with its code is there.
        for address, account in sorted(accounts, key=lambda entry: entry[1].executable):
            self._bank.put(address, account)
        for signature, slot, err in self._storage.outcomes_since(self.clock.anchor_slot - BLOCKHASH_AGE_MAX):
            self._recent[signature] = Status(slot, json.loads(err) if err else None)


def _anchor(slot: int, wall_ms: int, slot_ms: int) -> str:
    return json.dumps([slot, wall_ms, slot_ms])


def _not_run(err: str) -> Outcome:
    return Outcome(err=err, landed=False, logs=[], inner_instructions=[], return_data=None, units=0, fee=0)
