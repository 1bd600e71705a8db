"""Methods that read accounts."""

from collections.abc import Callable, Iterable
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey

from contracts.localnet import codec
from contracts.localnet.rpc.context import Call
from contracts.localnet.rpc.encoding import AccountEncoder
from contracts.localnet.rpc.errors import invalid_params
from contracts.localnet.rpc.params import BASE58_BYTES_MAX, Config, parse_pubkey, parse_u64
from contracts.localnet.slots import Commitment

ADDRESSES_MAX = 100
FILTERS_MAX = 4

Filter = Callable[[Account], bool]


def get_balance(call: Call) -> dict[str, Any]:
    """`getBalance`: lamports, 0 for no account."""
    address = call.params.pubkey(0)
    commitment = call.view(call.params.config(1))
    account = call.ledger.account(address, commitment)
    return call.answer(commitment, account.lamports if account else 0)


def get_account_info(call: Call) -> dict[str, Any]:
    """`getAccountInfo`."""
    address = call.params.pubkey(0)
    config = call.params.config(1)
    commitment = call.view(config)
    encode = encoder(call, config, commitment)
    return call.answer(commitment, encode(call.ledger.account(address, commitment)))


def get_multiple_accounts(call: Call) -> dict[str, Any]:
    """`getMultipleAccounts`: at most 100."""
    addresses = [parse_pubkey(value) for value in call.params.items(0, ADDRESSES_MAX)]
    config = call.params.config(1)
    commitment = call.view(config)
    encode = encoder(call, config, commitment, default="base64")
    return call.answer(
        commitment, [encode(call.ledger.account(address, commitment)) for address in addresses]
    )


def get_program_accounts(call: Call) -> Any:
    """`getProgramAccounts` with the filters `dataSize` and `memcmp`; one slot for the whole answer."""
    program = call.params.pubkey(0)
    config = call.params.config(1)
    commitment = call.view(config)
    wanted = parse_filters(config.raw("filters"))
    encode = encoder(call, config, commitment)
    value = keyed(
        encode,
        (
            entry
            for entry in call.ledger.owned_by(program, commitment)
            if all(fits(entry[1]) for fits in wanted)
        ),
    )
    return call.answer(commitment, value) if config.flag("withContext") else value


def encoder(
    call: Call, config: Config, commitment: Commitment, *, default: str = "binary", lenient: bool = False
) -> AccountEncoder:
    """Return the encoder a call asks for; parsed token accounts look up their mint at the same commitment."""
    return AccountEncoder(
        config, lambda address: call.ledger.account(address, commitment), default=default, lenient=lenient
    )


def keyed(encode: AccountEncoder, entries: Iterable[tuple[Pubkey, Account]]) -> list[dict[str, Any]]:
    """Return accounts with their addresses."""
    return [{"pubkey": str(address), "account": encode(account)} for address, account in entries]


def parse_filters(value: Any) -> list[Filter]:
    """Return the tests in the `filters` of a call; an account has to pass all."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise invalid_params("filters must be an array")
    if len(value) > FILTERS_MAX:
        raise invalid_params(f"Too many filters provided; max {FILTERS_MAX}")
    return [_filter(entry) for entry in value]


def _filter(value: Any) -> Filter:
    if isinstance(value, dict) and set(value) == {"dataSize"}:
        size = parse_u64(value["dataSize"], "dataSize")
        return lambda account: len(account.data) == size
    if isinstance(value, dict) and set(value) == {"memcmp"} and isinstance(value["memcmp"], dict):
        offset = parse_u64(value["memcmp"].get("offset"), "memcmp.offset")
        expected = _memcmp_bytes(value["memcmp"])
        return lambda account: account.data[offset : offset + len(expected)] == expected
    raise invalid_params("a filter is {dataSize: n} or {memcmp: {offset, bytes, encoding}}")


def _memcmp_bytes(memcmp: dict[str, Any]) -> bytes:
    given = memcmp.get("bytes")
    encoding = memcmp.get("encoding") or "base58"
    try:
        if isinstance(given, list):
            expected = bytes(given)
        elif isinstance(given, str) and encoding in ("base58", "binary"):
            expected = codec.from_base58(given)
        elif isinstance(given, str) and encoding == "base64":
            expected = codec.from_base64(given)
        else:
            raise ValueError("memcmp.bytes must be base58 or base64 text, or an array of bytes")
    except (TypeError, ValueError) as error:
        raise invalid_params(str(error)) from None
    if len(expected) > BASE58_BYTES_MAX:
        raise invalid_params(f"memcmp compares at most {BASE58_BYTES_MAX} bytes")
    return expected


METHODS: dict[str, Callable[[Call], Any]] = {
    "getBalance": get_balance,
    "getAccountInfo": get_account_info,
    "getMultipleAccounts": get_multiple_accounts,
    "getProgramAccounts": get_program_accounts,
}
