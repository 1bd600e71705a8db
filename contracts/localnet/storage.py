"""The chain's file: SQLite with every account ever touched, recent transactions, and what a restart needs.

Write-ahead log with synchronous=NORMAL: what was committed survives the kill of the process; a power cut may
lose the last moments, which is right for a local chain and would not be for a real one. One connection, one
thread.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from solders.account import Account
from solders.pubkey import Pubkey
from solders.signature import Signature

from contracts.localnet.slots import BLOCKHASH_AGE_MAX

TRANSACTIONS_KEPT = 200_000
_PRUNE_EVERY_MAX = 1_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accounts (address BLOB PRIMARY KEY, state BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transactions (
    id INTEGER PRIMARY KEY, signature BLOB NOT NULL UNIQUE, slot INTEGER NOT NULL, block_time INTEGER NOT NULL,
    err TEXT, raw BLOB NOT NULL, meta BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS transactions_slot ON transactions (slot);
CREATE TABLE IF NOT EXISTS mentions (
    address BLOB NOT NULL, transaction_id INTEGER NOT NULL, PRIMARY KEY (address, transaction_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS mentions_transaction ON mentions (transaction_id);
CREATE TABLE IF NOT EXISTS times (slot INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL, slot_ms INTEGER NOT NULL);
"""
_COLUMNS = "id, signature, slot, block_time, err, raw, meta"


@dataclass(frozen=True, slots=True)
class StoredTransaction:
    """One landed transaction. `err` and `meta` are JSON (`err` None on success), `id` its position in the chain."""

    id: int
    signature: Signature
    slot: int
    block_time: int
    err: str | None
    raw: bytes
    meta: bytes


class Storage:
    """The tables of one chain, with the last `transactions_kept` transactions. Nothing is durable before `commit()`."""

    def __init__(self, path: Path, transactions_kept: int = TRANSACTIONS_KEPT) -> None:
        self._kept = transactions_kept
        self._prune_every = min(_PRUNE_EVERY_MAX, transactions_kept)
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.executescript(_SCHEMA)
        self._open = False
        self._next_id = self._connection.execute(
            "SELECT coalesce(max(id), 0) + 1 FROM transactions"
        ).fetchone()[0]

    def fact(self, name: str) -> str | None:
        """Return a fact stored by `set_fact`, or None."""
        row = self._connection.execute("SELECT value FROM facts WHERE name = ?", [name]).fetchone()
        return None if row is None else row[0]

    def set_fact(self, name: str, value: str) -> None:
        """Store one named fact about the chain."""
        self._begin()
        self._connection.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", [name, value])

    def accounts(self) -> Iterator[tuple[Pubkey, Account]]:
        """Yield every stored account."""
        for address, state in self._connection.execute("SELECT address, state FROM accounts"):
            yield Pubkey.from_bytes(address), Account.from_bytes(state)

    def set_account(self, address: Pubkey, account: Account | None) -> None:
        """Store an account's newest state; None removes it."""
        self._begin()
        if account is None:
            self._connection.execute("DELETE FROM accounts WHERE address = ?", [bytes(address)])
        else:
            row = [bytes(address), bytes(account)]
            self._connection.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?)", row)

    def add_transaction(
        self,
        *,
        signature: Signature,
        slot: int,
        block_time: int,
        err: str | None,
        raw: bytes,
        meta: bytes,
        addresses: Sequence[Pubkey],
    ) -> None:
        """Append a landed transaction and the addresses it mentions; now and then the oldest beyond those kept go."""
        self._begin()
        number = self._next_id
        self._next_id += 1
        row = [number, bytes(signature), slot, block_time, err, raw, meta]
        self._connection.execute("INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        mentions = [(bytes(address), number) for address in addresses]
        self._connection.executemany("INSERT OR IGNORE INTO mentions VALUES (?, ?)", mentions)
        if number % self._prune_every == 0:
            self._prune(number, slot)

    def transaction(self, signature: Signature) -> StoredTransaction | None:
        """Return a kept transaction by its signature."""
        found = self._select("WHERE signature = ?", [bytes(signature)])
        return found[0] if found else None

    def outcomes_since(self, slot: int) -> list[tuple[Signature, int, str | None]]:
        """Return (signature, slot, err) of the kept transactions of `slot` and later, oldest first."""
        rows = self._connection.execute(
            "SELECT signature, slot, err FROM transactions WHERE slot >= ? ORDER BY id", [slot]
        )
        return [(Signature.from_bytes(signature), number, err) for signature, number, err in rows]

    def transactions_of(
        self,
        address: Pubkey,
        *,
        through_slot: int,
        before: Signature | None,
        until: Signature | None,
        limit: int,
    ) -> list[StoredTransaction]:
        """Return kept transactions that mention `address`, newest first, between two of them exclusive."""
        newest = self._id_of(before) if before else self._next_id
        oldest = (self._id_of(until) or 0) if until else 0
        return self._select(
            "JOIN mentions ON transaction_id = id WHERE address = ? AND id < ? AND id > ? AND slot <= ?"
            " ORDER BY id DESC LIMIT ?",
            [bytes(address), newest or 0, oldest, through_slot, limit],
        )

    def transactions_in(self, slot: int) -> list[StoredTransaction]:
        """Return the kept transactions of one slot, in the order they ran."""
        return self._select("WHERE slot = ? ORDER BY id", [slot])

    def first_whole_slot(self) -> int:
        """Return the first slot of which, and of all after it, every transaction is kept."""
        row = self._connection.execute("SELECT id, slot FROM transactions ORDER BY id LIMIT 1").fetchone()
        return 0 if row is None or row[0] == 1 else int(row[1]) + 1

    def add_time_mark(self, slot: int, unix_ms: int, slot_ms: int) -> None:
        """Say what time it was at the start of `slot`, from which on slots last `slot_ms`."""
        self._begin()
        row = [slot, unix_ms, slot_ms]
        self._connection.execute("INSERT OR REPLACE INTO times VALUES (?, ?, ?)", row)

    def block_time(self, slot: int) -> int:
        """Return the unix seconds that the transactions of a slot saw, or would have seen."""
        seen = self._connection.execute("SELECT max(block_time) FROM transactions WHERE slot = ?", [slot])
        block_time: int | None = seen.fetchone()[0]
        if block_time is not None:
            return block_time
        marked, unix_ms, slot_ms = self._connection.execute(
            "SELECT slot, unix_ms, slot_ms FROM times ORDER BY slot <= ?1 DESC, abs(slot - ?1) LIMIT 1",
            [slot],
        ).fetchone()
        return int(unix_ms + (slot - marked) * slot_ms) // 1000

    def transaction_count(self) -> int:
        """Return how many transactions have landed since genesis."""
        return int(self._next_id) - 1

    def last_slot(self) -> int:
        """Return the slot of the newest transaction, 0 if there is none."""
        return int(self._connection.execute("SELECT coalesce(max(slot), 0) FROM transactions").fetchone()[0])

    def commit(self) -> None:
        """Make everything written so far durable."""
        if self._open:
            self._connection.execute("COMMIT")
            self._open = False

    def close(self) -> None:
        """Commit and close the file."""
        self.commit()
        self._connection.close()

    def _prune(self, newest: int, slot: int) -> None:
        # What a duplicate could still be sent of is kept anyway: a restart knows it from here.
        last = self._connection.execute(
            "SELECT max(id) FROM transactions WHERE id <= ? AND slot < ?",
            [newest - self._kept, slot - BLOCKHASH_AGE_MAX],
        ).fetchone()
        self._connection.execute("DELETE FROM transactions WHERE id <= ?", last)
        self._connection.execute("DELETE FROM mentions WHERE transaction_id <= ?", last)

    def _begin(self) -> None:
        if not self._open:
            self._connection.execute("BEGIN IMMEDIATE")
            self._open = True

    def _id_of(self, signature: Signature) -> int | None:
        row = self._connection.execute(
            "SELECT id FROM transactions WHERE signature = ?", [bytes(signature)]
        ).fetchone()
        return None if row is None else row[0]

    def _select(self, clause: str, parameters: Sequence[object]) -> list[StoredTransaction]:
        # Clauses are constants of this file.
        rows = self._connection.execute(f"SELECT {_COLUMNS} FROM transactions {clause}", parameters)  # noqa: S608
        return [
            StoredTransaction(number, Signature.from_bytes(signature), slot, block_time, err, raw, meta)
            for number, signature, slot, block_time, err, raw, meta in rows
        ]
