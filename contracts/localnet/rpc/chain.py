"""Methods about the chain itself: health, slots, block hashes, fees, epochs."""

from collections.abc import Callable
from typing import Any

from solders.message import Message, MessageV0

from contracts.localnet.fees import fee_of
from contracts.localnet.rpc.context import VERSION, Call
from contracts.localnet.rpc.errors import invalid_params
from contracts.localnet.rpc.params import parse_pubkey
from contracts.localnet.slots import SLOTS_PER_EPOCH, Commitment


def get_health(call: Call) -> str:
    """`getHealth`: "ok"."""
    return "ok"


def get_version(call: Call) -> dict[str, Any]:
    """`getVersion`: the Agave release whose runtime LiteSVM carries."""
    return {"solana-core": VERSION, "feature-set": 0}


def get_genesis_hash(call: Call) -> str:
    """`getGenesisHash`."""
    return str(call.ledger.genesis_hash)


def get_slot(call: Call) -> int:
    """`getSlot` and `getBlockHeight`: every slot has a block, so they are equal."""
    return call.ledger.slot(call.view(call.params.config(0)))


def get_epoch_info(call: Call) -> dict[str, Any]:
    """`getEpochInfo`."""
    slot = call.ledger.slot(call.view(call.params.config(0)))
    return {
        "absoluteSlot": slot,
        "blockHeight": slot,
        "epoch": slot // SLOTS_PER_EPOCH,
        "slotIndex": slot % SLOTS_PER_EPOCH,
        "slotsInEpoch": SLOTS_PER_EPOCH,
        "transactionCount": call.ledger.transaction_count(),
    }


def get_epoch_schedule(call: Call) -> dict[str, Any]:
    """`getEpochSchedule`: epochs of mainnet's length from the first slot on."""
    return {
        "slotsPerEpoch": SLOTS_PER_EPOCH,
        "leaderScheduleSlotOffset": SLOTS_PER_EPOCH,
        "warmup": False,
        "firstNormalEpoch": 0,
        "firstNormalSlot": 0,
    }


def get_latest_blockhash(call: Call) -> dict[str, Any]:
    """`getLatestBlockhash`."""
    commitment = call.view(call.params.config(0))
    blockhash, last_valid = call.ledger.latest_blockhash(commitment)
    return call.answer(commitment, {"blockhash": str(blockhash), "lastValidBlockHeight": last_valid})


def is_blockhash_valid(call: Call) -> dict[str, Any]:
    """`isBlockhashValid`."""
    blockhash = call.params.blockhash(0)
    commitment = call.view(call.params.config(1))
    return call.answer(commitment, call.ledger.is_blockhash_valid(blockhash, commitment))


def get_fee_for_message(call: Call) -> dict[str, Any]:
    """`getFeeForMessage`: lamports, or null when the message's block hash has expired."""
    raw = call.params.bytes(0, "base64")
    commitment = call.view(call.params.config(1))
    try:
        # The high bit of the first byte marks a versioned message.
        message = MessageV0.from_bytes(raw[1:]) if raw[:1] and raw[0] & 0x80 else Message.from_bytes(raw)
    except ValueError as error:
        raise invalid_params(f"failed to deserialize message: {error}") from None
    valid = call.ledger.is_blockhash_valid(message.recent_blockhash, Commitment.processed)
    return call.answer(commitment, fee_of(message) if valid else None)


def get_minimum_balance(call: Call) -> int:
    """`getMinimumBalanceForRentExemption`."""
    size = call.params.u64(0)
    if size > 10 * 1024 * 1024:
        raise invalid_params("an account holds at most 10485760 bytes")
    return call.ledger.rent_exempt_minimum(size)


def get_transaction_count(call: Call) -> int:
    """`getTransactionCount`: transactions since genesis."""
    return call.ledger.transaction_count()


def get_recent_prioritization_fees(call: Call) -> list[dict[str, int]]:
    """`getRecentPrioritizationFees`: there is no competition for blocks here, so every recent slot took 0."""
    for address in call.params.items(0, 128) if call.params.has(0) else []:
        parse_pubkey(address)
    newest = call.ledger.slot(Commitment.processed)
    return [{"slot": slot, "prioritizationFee": 0} for slot in range(max(newest - 149, 0), newest + 1)]


METHODS: dict[str, Callable[[Call], Any]] = {
    "getHealth": get_health,
    "getVersion": get_version,
    "getGenesisHash": get_genesis_hash,
    "getSlot": get_slot,
    "getBlockHeight": get_slot,
    "getEpochInfo": get_epoch_info,
    "getEpochSchedule": get_epoch_schedule,
    "getLatestBlockhash": get_latest_blockhash,
    "isBlockhashValid": is_blockhash_valid,
    "getFeeForMessage": get_fee_for_message,
    "getMinimumBalanceForRentExemption": get_minimum_balance,
    "getTransactionCount": get_transaction_count,
    "getRecentPrioritizationFees": get_recent_prioritization_fees,
}
