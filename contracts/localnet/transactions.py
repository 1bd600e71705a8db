"""Transactions as bytes: decode one, name its accounts, and write down what it did.

What it did is kept as JSON in the shape that `getTransaction` answers with, so that reading it later is a look-up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from solders.account import Account
from solders.message import MessageV0
from solders.pubkey import Pubkey
from solders.transaction import VersionedTransaction

from contracts.localnet import codec, tokens
from contracts.localnet.bank import Outcome
from contracts.localnet.errors import MalformedTransaction

PACKET_BYTES_MAX = 1232
# An address lookup table account: a header, then 32 bytes per address.
_TABLE_HEADER_BYTES = 56
_MEMO_PROGRAMS = {
    Pubkey.from_string("MemoSq4gqABAXKb96qnH8TysNcWxMyWCqXgDLGmfcHr"),
    Pubkey.from_string("Memo1UhkJRfHyvLMcVucJwxXeuD728EqVDDwQDxFMNo"),
}
_ACCOUNTS_META = (
    "err",
    "status",
    "fee",
    "preBalances",
    "postBalances",
    "preTokenBalances",
    "postTokenBalances",
)

GetAccount = Callable[[Pubkey], Account | None]


@dataclass(frozen=True, slots=True)
class AccountKeys:
    """The addresses of a transaction in the order its instructions count them."""

    static: list[Pubkey]
    loaded_writable: list[Pubkey]
    loaded_readonly: list[Pubkey]
    writable: list[Pubkey]

    @property
    def all(self) -> list[Pubkey]:
        """Return every address."""
        return [*self.static, *self.loaded_writable, *self.loaded_readonly]


def decode(raw: bytes) -> VersionedTransaction:
    """Parse a wire transaction. Raises MalformedTransaction."""
    if len(raw) > PACKET_BYTES_MAX:
        raise MalformedTransaction(
            f"VersionedTransaction too large: {len(raw)} bytes (max: {PACKET_BYTES_MAX} bytes)"
        )
    try:
        transaction = VersionedTransaction.from_bytes(raw)
    except ValueError as error:
        raise MalformedTransaction(f"failed to deserialize VersionedTransaction: {error}") from None
    if bytes(transaction) != raw:
        raise MalformedTransaction("failed to deserialize VersionedTransaction: trailing bytes")
    required = transaction.message.header.num_required_signatures
    if not transaction.signatures or len(transaction.signatures) != required:
        raise MalformedTransaction(
            "invalid transaction: Transaction failed to sanitize accounts offsets correctly"
        )
    return transaction


def account_keys(transaction: VersionedTransaction, get_account: GetAccount) -> AccountKeys:
    """Return the transaction's addresses, those from lookup tables included (missing tables give none)."""
    message = transaction.message
    header = message.header
    static = list(message.account_keys)
    signers = header.num_required_signatures
    writable = static[: signers - header.num_readonly_signed_accounts]
    writable += static[signers : len(static) - header.num_readonly_unsigned_accounts]
    loaded_writable: list[Pubkey] = []
    loaded_readonly: list[Pubkey] = []
    for lookup in message.address_table_lookups if isinstance(message, MessageV0) else []:
        table = get_account(lookup.account_key)
        data = table.data if table is not None else b""
        for indexes, into in (
            (lookup.writable_indexes, loaded_writable),
            (lookup.readonly_indexes, loaded_readonly),
        ):
            for index in indexes:
                start = _TABLE_HEADER_BYTES + 32 * index
                if len(data) >= start + 32:
                    into.append(Pubkey.from_bytes(data[start : start + 32]))
    return AccountKeys(static, loaded_writable, loaded_readonly, writable + loaded_writable)


def meta_json(
    *,
    outcome: Outcome,
    keys: AccountKeys,
    lamports_before: list[int],
    lamports_after: list[int],
    before: Mapping[Pubkey, Account | None],
    after: Mapping[Pubkey, Account | None],
    get_account: GetAccount,
) -> bytes:
    """Return the `meta` of `getTransaction`. `before` and `after` hold the writable accounts."""
    meta: dict[str, Any] = {
        "err": outcome.err,
        "status": {"Ok": None} if outcome.err is None else {"Err": outcome.err},
        "fee": outcome.fee,
        "preBalances": lamports_before,
        "postBalances": lamports_after,
        "preTokenBalances": tokens.balances(keys.all, before, get_account),
        "postTokenBalances": tokens.balances(keys.all, after, get_account),
        "innerInstructions": inner_instructions_json(outcome),
        "logMessages": outcome.logs,
        "rewards": [],
        "loadedAddresses": {
            "writable": [str(key) for key in keys.loaded_writable],
            "readonly": [str(key) for key in keys.loaded_readonly],
        },
        "computeUnitsConsumed": outcome.units,
    }
    if outcome.return_data is not None:
        meta["returnData"] = return_data_json(outcome)
    return msgspec.json.encode(meta)


def inner_instructions_json(outcome: Outcome) -> list[dict[str, Any]]:
    """Return the instructions that programs called, grouped by the instruction that called them."""
    return [
        {
            "index": group["index"],
            "instructions": [
                {
                    "programIdIndex": program,
                    "accounts": accounts,
                    "data": codec.to_base58(data),
                    "stackHeight": height,
                }
                for program, accounts, data, height in group["instructions"]
            ],
        }
        for group in outcome.inner_instructions
    ]


def return_data_json(outcome: Outcome) -> dict[str, Any] | None:
    """Return what the last program returned, or None."""
    if outcome.return_data is None:
        return None
    program, data = outcome.return_data
    return {"programId": str(program), "data": [codec.to_base64(data), "base64"]}


def transaction_json(transaction: VersionedTransaction) -> dict[str, Any]:
    """Return the transaction in the encoding `json`."""
    message = transaction.message
    header = message.header
    body: dict[str, Any] = {
        "accountKeys": [str(key) for key in message.account_keys],
        "header": {
            "numRequiredSignatures": header.num_required_signatures,
            "numReadonlySignedAccounts": header.num_readonly_signed_accounts,
            "numReadonlyUnsignedAccounts": header.num_readonly_unsigned_accounts,
        },
        "recentBlockhash": str(message.recent_blockhash),
        "instructions": [
            {
                "programIdIndex": instruction.program_id_index,
                "accounts": list(instruction.accounts),
                "data": codec.to_base58(bytes(instruction.data)),
                "stackHeight": 1,
            }
            for instruction in message.instructions
        ],
    }
    if isinstance(message, MessageV0):
        body["addressTableLookups"] = [
            {
                "accountKey": str(lookup.account_key),
                "writableIndexes": list(lookup.writable_indexes),
                "readonlyIndexes": list(lookup.readonly_indexes),
            }
            for lookup in message.address_table_lookups
        ]
    return {"signatures": [str(signature) for signature in transaction.signatures], "message": body}


def parsed_json(
    transaction: VersionedTransaction, meta: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return transaction and meta in the encoding `jsonParsed`.

    No program has a parser here: instructions come as Solana shows those of unknown programs, with their addresses.
    """
    plain = transaction_json(transaction)
    listed = _listed_keys(transaction, meta)
    keys = [entry["pubkey"] for entry in listed]
    body: dict[str, Any] = {
        "accountKeys": listed,
        "recentBlockhash": plain["message"]["recentBlockhash"],
        "instructions": [_with_addresses(entry, keys) for entry in plain["message"]["instructions"]],
    }
    if "addressTableLookups" in plain["message"]:
        body["addressTableLookups"] = plain["message"]["addressTableLookups"]
    inner = [
        {
            "index": group["index"],
            "instructions": [_with_addresses(entry, keys) for entry in group["instructions"]],
        }
        for group in meta["innerInstructions"]
    ]
    return {"signatures": plain["signatures"], "message": body}, meta | {"innerInstructions": inner}


def accounts_json(
    transaction: VersionedTransaction, meta: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return transaction and meta with the detail `accounts` of a block: who took part, and what it cost them."""
    body = {
        "signatures": [str(signature) for signature in transaction.signatures],
        "accountKeys": _listed_keys(transaction, meta),
    }
    return body, {name: meta[name] for name in _ACCOUNTS_META}


def memo_of(transaction: VersionedTransaction) -> str | None:
    """Return the memos of a transaction as `getSignaturesForAddress` shows them, None when it has none."""
    keys = transaction.message.account_keys
    memos = [
        bytes(instruction.data)
        for instruction in transaction.message.instructions
        if instruction.program_id_index < len(keys) and keys[instruction.program_id_index] in _MEMO_PROGRAMS
    ]
    return "; ".join(f"[{len(memo)}] {memo.decode(errors='replace')}" for memo in memos) or None


def _listed_keys(transaction: VersionedTransaction, meta: dict[str, Any]) -> list[dict[str, Any]]:
    message = transaction.message
    loaded = meta["loadedAddresses"]
    static = [str(key) for key in message.account_keys]
    # Lookup tables are in the meta already, as they were when the transaction ran.
    writable = {str(key) for key in account_keys(transaction, lambda _: None).writable}
    writable |= set(loaded["writable"])
    return [
        {
            "pubkey": key,
            "signer": index < message.header.num_required_signatures,
            "writable": key in writable,
            "source": "transaction" if index < len(static) else "lookupTable",
        }
        for index, key in enumerate(static + loaded["writable"] + loaded["readonly"])
    ]


def _with_addresses(instruction: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    return {
        "programId": keys[instruction["programIdIndex"]],
        "accounts": [keys[index] for index in instruction["accounts"]],
        "data": instruction["data"],
        "stackHeight": instruction["stackHeight"],
    }
