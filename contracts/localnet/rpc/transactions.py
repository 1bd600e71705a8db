"""Methods that send and simulate transactions."""

from collections.abc import Callable
from typing import Any

from contracts.localnet.bank import Outcome
from contracts.localnet.errors import BadSignature, MalformedTransaction, TransactionRefused
from contracts.localnet.rpc.context import Call
from contracts.localnet.rpc.encoding import AccountEncoder
from contracts.localnet.rpc.errors import (
    INVALID_PARAMS,
    PREFLIGHT_FAILURE,
    SIGNATURE_VERIFICATION_FAILURE,
    RpcError,
    invalid_params,
)
from contracts.localnet.rpc.params import Config, parse_pubkey
from contracts.localnet.slots import Commitment
from contracts.localnet.transactions import (
    decode,
    inner_instructions_json,
    return_data_json,
)

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


METHODS: dict[str, Callable[[Call], Any]] = {
    "sendTransaction": send_transaction,
    "simulateTransaction": simulate_transaction,
    "requestAirdrop": request_airdrop,
}
