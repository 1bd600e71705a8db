"""Methods that send, simulate and look up transactions."""

from collections.abc import Callable
from typing import Any

import msgspec
from solders.message import MessageV0
from solders.transaction import VersionedTransaction

from contracts.localnet import codec
from contracts.localnet.bank import Outcome
from contracts.localnet.errors import BadSignature, MalformedTransaction, TransactionRefused
from contracts.localnet.rpc.context import Call
from contracts.localnet.rpc.encoding import AccountEncoder
from contracts.localnet.rpc.errors import (
    INVALID_PARAMS,
    PREFLIGHT_FAILURE,
    SIGNATURE_VERIFICATION_FAILURE,
    UNSUPPORTED_TRANSACTION_VERSION,
    RpcError,
    invalid_params,
)
from contracts.localnet.rpc.params import Config, parse_pubkey, parse_signature
from contracts.localnet.slots import Commitment
from contracts.localnet.storage import StoredTransaction
from contracts.localnet.transactions import (
    decode,
    inner_instructions_json,
    parsed_json,
    return_data_json,
    transaction_json,
)

STATUSES_MAX = 256
SIGNATURES_MAX = 1_000
AIRDROP_LAMPORTS_MAX = 1_000_000 * 1_000_000_000


def send_transaction(call: Call) -> str:
    """`sendTransaction`: the signature. Preflight runs against the newest state, whatever its commitment."""
    config = call.params.config(1)
    config.commitment("preflightCommitment")
    raw = call.params.bytes(0, _wire_encoding(config))
    try:
        return str(call.ledger.send(raw, skip_preflight=config.flag("skipPreflight")))
    except TransactionRefused as refused:
        message = f"Transaction simulation failed: {refused}"
        raise RpcError(PREFLIGHT_FAILURE, message, _simulation(refused.outcome)) from None
    except (BadSignature, MalformedTransaction) as error:
        raise _refusal(error) from None


def simulate_transaction(call: Call) -> dict[str, Any]:
    """`simulateTransaction`, always on the newest state."""
    config = call.params.config(1)
    commitment = call.view(config)
    raw = call.params.bytes(0, _wire_encoding(config))
    replace, verify = config.flag("replaceRecentBlockhash"), config.flag("sigVerify")
    if replace and verify:
        raise invalid_params("sigVerify may not be used with replaceRecentBlockhash")
    try:
        outcome = call.ledger.simulate(decode(raw), verify=verify, any_blockhash=replace)
    except (BadSignature, MalformedTransaction) as error:
        raise _refusal(error) from None
    value = _simulation(outcome, inner=config.flag("innerInstructions"))
    value["accounts"] = _simulated_accounts(call, config.raw("accounts"), outcome)
    if replace:
        blockhash, last_valid = call.ledger.latest_blockhash(Commitment.processed)
        value["replacementBlockhash"] = {"blockhash": str(blockhash), "lastValidBlockHeight": last_valid}
    return call.answer(commitment, value)


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
    encoding = config.text("encoding", "json", ("json", "jsonParsed", "base58", "base64")) or "json"
    stored = call.ledger.transaction(signature, _settled(config))
    if stored is None:
        return None
    transaction = VersionedTransaction.from_bytes(stored.raw)
    answer: dict[str, Any] = {
        "slot": stored.slot,
        "blockTime": stored.block_time,
    }
    if encoding == "jsonParsed":
        answer["transaction"], answer["meta"] = parsed_json(transaction, msgspec.json.decode(stored.meta))
    else:
        answer["transaction"] = _encoded(transaction, stored, encoding)
        answer["meta"] = msgspec.Raw(stored.meta)
    highest = config.number("maxSupportedTransactionVersion")
    versioned = isinstance(transaction.message, MessageV0)
    if versioned and highest is None:
        raise RpcError(
            UNSUPPORTED_TRANSACTION_VERSION,
            "Transaction version (0) is not supported by the requesting client. Please try the request again with the"
            ' following configuration parameter: "maxSupportedTransactionVersion": 0',
        )
    if highest is not None:
        answer["version"] = 0 if versioned else "legacy"
    return answer


def get_signatures_for_address(call: Call) -> list[dict[str, Any]]:
    """`getSignaturesForAddress`: newest first, at most 1,000 a call."""
    address = call.params.pubkey(0)
    config = call.params.config(1)
    limit = config.number("limit")
    if limit is not None and not 1 <= limit <= SIGNATURES_MAX:
        raise invalid_params(f"Invalid limit; max {SIGNATURES_MAX}")
    found = call.ledger.transactions_of(
        address,
        _settled(config),
        before=config.signature("before"),
        until=config.signature("until"),
        limit=limit or SIGNATURES_MAX,
    )
    return [
        {
            "signature": str(entry.signature),
            "slot": entry.slot,
            "err": None if entry.err is None else msgspec.json.decode(entry.err),
            "memo": None,
            "blockTime": entry.block_time,
            "confirmationStatus": call.ledger.commitment_of(entry.slot).name,
        }
        for entry in found
    ]


def request_airdrop(call: Call) -> str:
    """`requestAirdrop`: the signature of the faucet's transfer."""
    address = call.params.pubkey(0)
    lamports = call.params.u64(1)
    if lamports > AIRDROP_LAMPORTS_MAX:
        raise invalid_params(f"an airdrop gives at most {AIRDROP_LAMPORTS_MAX} lamports")
    try:
        return str(call.ledger.airdrop(address, lamports))
    except TransactionRefused as refused:
        raise RpcError(
            PREFLIGHT_FAILURE, f"Airdrop failed: {refused}", _simulation(refused.outcome)
        ) from None


def _wire_encoding(config: Config) -> str:
    return config.text("encoding", "base58", ("base58", "base64")) or "base58"


def _settled(config: Config) -> Commitment:
    commitment = config.commitment()
    if commitment is Commitment.processed:
        raise invalid_params("Method does not support commitment below `confirmed`")
    return commitment


def _refusal(error: BadSignature | MalformedTransaction) -> RpcError:
    code = SIGNATURE_VERIFICATION_FAILURE if isinstance(error, BadSignature) else INVALID_PARAMS
    return RpcError(code, str(error))


def _simulation(outcome: Outcome, *, inner: bool = False) -> dict[str, Any]:
    return {
        "err": outcome.err,
        "logs": outcome.logs,
        "accounts": None,
        "unitsConsumed": outcome.units,
        "returnData": return_data_json(outcome),
        "innerInstructions": inner_instructions_json(outcome) if inner else None,
        "replacementBlockhash": None,
    }


def _simulated_accounts(call: Call, wanted: Any, outcome: Outcome) -> list[dict[str, Any] | None] | None:
    if wanted is None:
        return None
    config = Config(wanted)
    addresses = config.raw("addresses")
    if not isinstance(addresses, list):
        raise invalid_params("accounts.addresses must be an array")
    states = outcome.post_accounts or {}
    encode = AccountEncoder(
        config, lambda address: call.ledger.account(address, Commitment.processed), default="base64"
    )
    if outcome.err is not None:
        return [None for _ in addresses]
    return [
        encode(states.get(address) or call.ledger.account(address, Commitment.processed))
        for address in map(parse_pubkey, addresses)
    ]


def _encoded(transaction: VersionedTransaction, stored: StoredTransaction, encoding: str) -> Any:
    if encoding == "base64":
        return [codec.to_base64(stored.raw), "base64"]
    if encoding == "base58":
        return [codec.to_base58(stored.raw), "base58"]
    return transaction_json(transaction)


METHODS: dict[str, Callable[[Call], Any]] = {
    "sendTransaction": send_transaction,
    "simulateTransaction": simulate_transaction,
    "getSignatureStatuses": get_signature_statuses,
    "getTransaction": get_transaction,
    "getSignaturesForAddress": get_signatures_for_address,
    "requestAirdrop": request_airdrop,
}
