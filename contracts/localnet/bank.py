"""The virtual machine: LiteSVM with its own checks of blockhash and duplicates off, because the ledger makes them.

Knows the newest state of every account and nothing of slots past, storage or JSON-RPC.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from solders.account import Account
from solders.clock import Clock
from solders.hash import Hash
from solders.litesvm import LiteSVM
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction
from solders.transaction_metadata import FailedTransactionMetadata, TransactionMetadata

from contracts.localnet.slots import SLOTS_PER_EPOCH

UPGRADEABLE_LOADER = Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111")
# ProgramData: u32 kind, u64 slot, then Option<Pubkey> of the upgrade authority.
_AUTHORITY = slice(12, 45)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one transaction. `err` is the TransactionError as JSON-RPC writes it, None on success.

    `landed` is False when the transaction is not even charged a fee, so that no block would contain it.
    """

    err: Any
    landed: bool
    logs: list[str]
    inner_instructions: list[dict[str, Any]]
    return_data: tuple[Pubkey, bytes] | None
    units: int
    fee: int
    post_accounts: dict[Pubkey, Account] | None = None


class Bank:
    """The accounts and the machine that runs transactions on them."""

    def __init__(self) -> None:
        self._svm = (
            LiteSVM()
            .with_sigverify(True)
            .with_mainnet_features()
            .with_blockhash_check(False)
            .with_transaction_history(0)
        )

    def load_program(
        self, program_id: Pubkey, elf: bytes, upgrade_authority: Pubkey | None
    ) -> tuple[Pubkey, Pubkey]:
        """Deploy a program; returns the addresses of its two accounts (program, ProgramData)."""
        self._svm.add_program(program_id, elf)
        address, _ = Pubkey.find_program_address([bytes(program_id)], UPGRADEABLE_LOADER)
        deployed = self._svm.get_account(address)
        if deployed is None:
            raise RuntimeError("LiteSVM no longer creates a ProgramData account")
        data = bytearray(deployed.data)
        data[_AUTHORITY] = b"\x01" + bytes(upgrade_authority) if upgrade_authority else bytes(33)
        self.put(address, Account(deployed.lamports, bytes(data), deployed.owner, False, deployed.rent_epoch))
        return program_id, address

    def account(self, address: Pubkey) -> Account | None:
        """Return an account's newest state, or None (also for one without lamports)."""
        return self._svm.get_account(address)

    def lamports(self, address: Pubkey) -> int:
        """Return an account's newest balance in lamports; 0 when there is no such account."""
        return self._svm.get_balance(address) or 0

    def put(self, address: Pubkey, account: Account) -> None:
        """Overwrite an account, past every rule: for start-up only."""
        self._svm.set_account(address, account)

    def owned_by(self, program: Pubkey) -> list[tuple[Pubkey, Account]]:
        """Return the newest state of every account a program owns."""
        return self._svm.get_program_accounts(program)

    def rent_exempt_minimum(self, size: int) -> int:
        """Return the lamports an account of `size` bytes must hold."""
        return self._svm.minimum_balance_for_rent_exemption(size)

    def set_clock(self, slot: int, unix_timestamp: int) -> None:
        """Set the Clock sysvar."""
        epoch = slot // SLOTS_PER_EPOCH
        self._svm.set_clock(Clock(slot, 0, epoch, epoch + 1, unix_timestamp))

    def set_slot_hashes(self, hashes: Sequence[tuple[int, Hash]]) -> None:
        """Set the SlotHashes sysvar, newest first (address lookup tables are created from it)."""
        self._svm.set_slot_hashes(hashes)

    def execute(self, transaction: VersionedTransaction) -> Outcome:
        """Run a transaction and keep what it did."""
        result = self._svm.send_transaction(transaction)
        return _outcome(result, transaction)

    def simulate(self, transaction: VersionedTransaction, *, verify: bool) -> Outcome:
        """Run a transaction and keep nothing; `verify` checks its signatures."""
        self._svm.with_sigverify(verify)
        try:
            result = self._svm.simulate_transaction(transaction)
        finally:
            self._svm.with_sigverify(True)
        if isinstance(result, FailedTransactionMetadata):
            return _outcome(result, transaction)
        return _outcome(result.meta(), transaction, dict(result.post_accounts()))


def _outcome(
    result: TransactionMetadata | FailedTransactionMetadata,
    transaction: VersionedTransaction,
    post_accounts: dict[Pubkey, Account] | None = None,
) -> Outcome:
    failed = isinstance(result, FailedTransactionMetadata)
    meta = result.meta() if isinstance(result, FailedTransactionMetadata) else result
    returned = meta.return_data()
    return Outcome(
        err=json.loads(result.to_json())["err"] if failed else None,
        # LiteSVM names the signature only of what it got as far as running.
        landed=meta.signature() == transaction.signatures[0],
        logs=meta.logs(),
        inner_instructions=_inner_instructions(meta),
        return_data=(returned.program_id, returned.data) if returned.data else None,
        units=meta.compute_units_consumed(),
        fee=meta.fee(),
        post_accounts=post_accounts,
    )


def _inner_instructions(meta: TransactionMetadata) -> list[dict[str, Any]]:
    """Return [{index, instructions: [(program index, account indexes, data, stack height)]}] where there are any."""
    groups = []
    for index, inner in enumerate(meta.inner_instructions()):
        if inner:
            parts = [(entry.instruction(), entry.stack_height()) for entry in inner]
            instructions = [
                (part.program_id_index, list(part.accounts), part.data, height) for part, height in parts
            ]
            groups.append({"index": index, "instructions": instructions})
    return groups
