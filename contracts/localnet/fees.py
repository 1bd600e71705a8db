"""What a transaction costs: 5,000 lamports per signature, those that precompiles check included, and its priority."""

from solders.message import Message, MessageV0
from solders.pubkey import Pubkey

LAMPORTS_PER_SIGNATURE = 5_000
_COMPUTE_BUDGET = Pubkey.from_string("ComputeBudget111111111111111111111111111111")
_ED25519 = Pubkey.from_string("Ed25519SigVerify111111111111111111111111111")
_SECP256K1 = Pubkey.from_string("KeccakSecp256k11111111111111111111111111111")
_SECP256R1 = Pubkey.from_string("Secp256r1SigVerify1111111111111111111111111")
_PRECOMPILES = {_ED25519, _SECP256K1, _SECP256R1}
_UNITS_MAX = 1_400_000
_UNITS_PER_INSTRUCTION = 200_000
_UNITS_PER_BUILTIN = 3_000
# What the runtime budgets as built in. secp256r1 is not among them, nor are programs that moved to bytecode.
_BUILTINS = {
    _ED25519,
    _SECP256K1,
    _COMPUTE_BUDGET,
    Pubkey.from_string("11111111111111111111111111111111"),
    Pubkey.from_string("Vote111111111111111111111111111111111111111"),
    Pubkey.from_string("BPFLoaderUpgradeab1e11111111111111111111111"),
    Pubkey.from_string("BPFLoader2111111111111111111111111111111111"),
    Pubkey.from_string("BPFLoader1111111111111111111111111111111111"),
    Pubkey.from_string("LoaderV411111111111111111111111111111111111"),
}
_SET_UNIT_LIMIT = 2
_SET_UNIT_PRICE = 3
_MICRO = 1_000_000


def fee_of(message: Message | MessageV0) -> int:
    """Return the fee of a message in lamports; the priority fee is rounded up, as the runtime does."""
    signatures = message.header.num_required_signatures
    limit: int | None = None
    default_limit = price = 0
    for instruction in message.instructions:
        if instruction.program_id_index >= len(message.account_keys):
            continue
        program = message.account_keys[instruction.program_id_index]
        data = bytes(instruction.data)
        default_limit += _UNITS_PER_BUILTIN if program in _BUILTINS else _UNITS_PER_INSTRUCTION
        if program in _PRECOMPILES and data:
            signatures += data[0]
        elif program == _COMPUTE_BUDGET and data[:1] == bytes([_SET_UNIT_LIMIT]):
            limit = int.from_bytes(data[1:5], "little")
        elif program == _COMPUTE_BUDGET and data[:1] == bytes([_SET_UNIT_PRICE]):
            price = int.from_bytes(data[1:9], "little")
    units = min(default_limit if limit is None else limit, _UNITS_MAX)
    return signatures * LAMPORTS_PER_SIGNATURE + -(-price * units // _MICRO)
