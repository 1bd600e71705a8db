"""Methods that look up transactions and blocks that were."""

from collections.abc import Callable
from typing import Any

import msgspec
from solders.message import MessageV0
from solders.transaction import VersionedTransaction

from contracts.localnet import codec
from contracts.localnet.ledger import Ledger
from contracts.localnet.rpc.context import Call
from contracts.localnet.rpc.errors import (
    BLOCK_CLEANED_UP,
    BLOCK_NOT_AVAILABLE,
    UNSUPPORTED_TRANSACTION_VERSION,
    RpcError,
    invalid_params,
)
from contracts.localnet.rpc.params import Config, parse_signature, parse_u64
from contracts.localnet.slots import Commitment
from contracts.localnet.storage import StoredTransaction
from contracts.localnet.transactions import accounts_json, memo_of, parsed_json, transaction_json

STATUSES_MAX = 256
SIGNATURES_MAX = 1_000
BLOCKS_MAX = 500_000
_ENCODINGS = ("json", "jsonParsed", "base58", "base64")
_DETAILS = ("full", "accounts", "signatures", "none")


def get_signature_statuses(call: Call) -> dict[str, Any]:
    """`getSignatureStatuses`: null for what is unknown; without history, for what is older than a blockhash lives."""
    signatures = [parse_signature(value) for value in call.params.items(0, STATUSES_MAX)]
    search = call.params.config(1).flag("searchTransactionHistory")
    statuses: list[dict[str, Any] | None] = []
    newest = call.ledger.slot(Commitment.processed)
    for signature in signatures:
        status = call.ledger.status(signature, search_history=search)
        if status is None:
            statuses.append(None)
            continue
        commitment = call.ledger.commitment_of(status.slot)
        statuses.append(
            {
                "slot": status.slot,
                "confirmations": None if commitment is Commitment.finalized else newest - status.slot,
                "err": status.err,
                "status": {"Ok": None} if status.err is None else {"Err": status.err},
                "confirmationStatus": commitment.name,
            }
        )
    return call.answer(Commitment.processed, statuses)


def get_transaction(call: Call) -> dict[str, Any] | None:
    """`getTransaction`: null until its slot has reached the commitment."""
    signature = call.params.signature(0)
    config = call.params.config(1)
    encoder = TransactionEncoder(config)
    stored = call.ledger.transaction(signature, settled(config))
    if stored is None:
        return None
    return {"slot": stored.slot, "blockTime": stored.block_time, **encoder(stored)}


def get_signatures_for_address(call: Call) -> list[dict[str, Any]]:
    """`getSignaturesForAddress`: newest first, at most 1,000 a call."""
    address = call.params.pubkey(0)
    config = call.params.config(1)
    commitment = settled(config)
    call.view(config)
    limit = config.number("limit")
    if limit is not None and not 1 <= limit <= SIGNATURES_MAX:
        raise invalid_params(f"Invalid limit; max {SIGNATURES_MAX}")
    found = call.ledger.transactions_of(
        address,
        commitment,
        before=config.signature("before"),
        until=config.signature("until"),
        limit=limit or SIGNATURES_MAX,
    )
    return [
        {
            "signature": str(entry.signature),
            "slot": entry.slot,
            "err": None if entry.err is None else msgspec.json.decode(entry.err),
            "memo": memo_of(VersionedTransaction.from_bytes(entry.raw)),
            "blockTime": entry.block_time,
            "confirmationStatus": call.ledger.commitment_of(entry.slot).name,
        }
        for entry in found
    ]


def get_block_time(call: Call) -> int:
    """`getBlockTime`: unix seconds of a slot's block."""
    slot = call.params.u64(0)
    if slot > call.ledger.slot(Commitment.processed):
        raise RpcError(BLOCK_NOT_AVAILABLE, f"Block not available for slot {slot}")
    return call.ledger.block_time(slot)


def get_block(call: Call) -> dict[str, Any]:
    """`getBlock`, of a slot that has reached the commitment and whose transactions are all kept."""
    slot = call.params.u64(0)
    config = call.params.config(1)
    block = BlockEncoder(config)
    if slot > call.ledger.slot(settled(config)):
        raise RpcError(BLOCK_NOT_AVAILABLE, f"Block not available for slot {slot}")
    first = call.ledger.first_block()
    if slot < first:
        raise RpcError(
            BLOCK_CLEANED_UP,
            f"Block {slot} cleaned up, does not exist on node. First available block: {first}",
        )
    return block(call.ledger, slot, call.ledger.transactions_in(slot))


def get_blocks(call: Call) -> list[int]:
    """`getBlocks`: every slot has a block, so all from the first to the last one asked for that are kept."""
    start = call.params.u64(0)
    last = call.params.value(1) if call.params.has(1) else None
    # The last slot may be left out, also when a configuration follows.
    config = call.params.config(1 if isinstance(last, dict) else 2)
    newest = call.ledger.slot(settled(config))
    end = newest if last is None or isinstance(last, dict) else parse_u64(last, "parameter 2")
    if end - start > BLOCKS_MAX:
        raise invalid_params(f"Slot range too large; max {BLOCKS_MAX}")
    return _blocks(call.ledger, start, min(end, newest))


def get_blocks_with_limit(call: Call) -> list[int]:
    """`getBlocksWithLimit`."""
    start, limit = call.params.u64(0), call.params.u64(1)
    newest = call.ledger.slot(settled(call.params.config(2)))
    if limit > BLOCKS_MAX:
        raise invalid_params(f"Limit too large; max {BLOCKS_MAX}")
    first = max(start, call.ledger.first_block())
    return _blocks(call.ledger, first, min(first + limit - 1, newest))


def get_first_available_block(call: Call) -> int:
    """`getFirstAvailableBlock` and `minimumLedgerSlot`: the first block that is kept whole."""
    return call.ledger.first_block()


def settled(config: Config) -> Commitment:
    """Return the commitment of a method that shows no open slot."""
    commitment = config.commitment()
    if commitment is Commitment.processed:
        raise invalid_params("Method does not support commitment below `confirmed`")
    return commitment


class TransactionEncoder:
    """Writes stored transactions the way one call asks for (`encoding`, `maxSupportedTransactionVersion`)."""

    def __init__(self, config: Config) -> None:
        self._encoding = config.text("encoding", "json", _ENCODINGS) or "json"
        self._highest = config.number("maxSupportedTransactionVersion")

    def __call__(self, stored: StoredTransaction, *, accounts_only: bool = False) -> dict[str, Any]:
        """Return `{transaction, meta, version}`, without the version for clients that know of none."""
        transaction = VersionedTransaction.from_bytes(stored.raw)
        versioned = isinstance(transaction.message, MessageV0)
        if versioned and self._highest is None:
            raise RpcError(
                UNSUPPORTED_TRANSACTION_VERSION,
                "Transaction version (0) is not supported by the requesting client. Please try the request again "
                'with the following configuration parameter: "maxSupportedTransactionVersion": 0',
            )
        version = {} if self._highest is None else {"version": 0 if versioned else "legacy"}
        if accounts_only or self._encoding == "jsonParsed":
            write = accounts_json if accounts_only else parsed_json
            body, meta = write(transaction, msgspec.json.decode(stored.meta))
            return {"transaction": body, "meta": meta} | version
        return {
            "transaction": self._plain(transaction, stored.raw),
            "meta": msgspec.Raw(stored.meta),
        } | version

    def _plain(self, transaction: VersionedTransaction, raw: bytes) -> Any:
        if self._encoding == "base64":
            return [codec.to_base64(raw), "base64"]
        if self._encoding == "base58":
            return [codec.to_base58(raw), "base58"]
        return transaction_json(transaction)


class BlockEncoder:
    """Writes blocks the way one call asks for (`transactionDetails`, `rewards`, and as `TransactionEncoder`)."""

    def __init__(self, config: Config) -> None:
        self._details = config.text("transactionDetails", "full", _DETAILS) or "full"
        # Nothing is ever staked here; the list is empty for those who want it.
        self._rewards = config.flag("rewards", True) and config.flag("showRewards", True)
        self._transaction = TransactionEncoder(config)

    def __call__(self, ledger: Ledger, slot: int, transactions: list[StoredTransaction]) -> dict[str, Any]:
        """Return the block of `slot` with these of its transactions."""
        block: dict[str, Any] = {
            "blockhash": str(ledger.blockhash(slot)),
            "previousBlockhash": str(ledger.blockhash(slot - 1) if slot else ledger.genesis_hash),
            "parentSlot": max(slot - 1, 0),
            "blockHeight": slot,
            "blockTime": ledger.block_time(slot),
        }
        if self._rewards:
            block["rewards"] = []
        if self._details == "signatures":
            block["signatures"] = [str(entry.signature) for entry in transactions]
        elif self._details != "none":
            only = self._details == "accounts"
            block["transactions"] = [self._transaction(entry, accounts_only=only) for entry in transactions]
        return block


def _blocks(ledger: Ledger, start: int, end: int) -> list[int]:
    return list(range(max(start, ledger.first_block()), end + 1))


METHODS: dict[str, Callable[[Call], Any]] = {
    "getSignatureStatuses": get_signature_statuses,
    "getTransaction": get_transaction,
    "getSignaturesForAddress": get_signatures_for_address,
    "getBlock": get_block,
    "getBlocks": get_blocks,
    "getBlocksWithLimit": get_blocks_with_limit,
    "getBlockTime": get_block_time,
    "getFirstAvailableBlock": get_first_available_block,
    "minimumLedgerSlot": get_first_available_block,
}
