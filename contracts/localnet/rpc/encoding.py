"""Accounts as the RPC writes them, in every encoding but zstd."""

from collections.abc import Callable
from typing import Any

from solders.account import Account
from solders.pubkey import Pubkey

from contracts.localnet import codec, tokens
from contracts.localnet.rpc.errors import INVALID_REQUEST, RpcError, invalid_params
from contracts.localnet.rpc.params import BASE58_BYTES_MAX, Config, parse_u64

ENCODINGS = ("base64", "base58", "jsonParsed", "binary")


class AccountEncoder:
    """Writes accounts the way one call's configuration asks for (`encoding`, `dataSlice`).

    Data too long for base58 is an error, or with `lenient` a text that says so, as subscribers get it.
    """

    def __init__(
        self,
        config: Config,
        get_account: Callable[[Pubkey], Account | None],
        *,
        default: str = "binary",
        lenient: bool = False,
    ) -> None:
        self._lenient = lenient
        self._encoding = config.text("encoding", default, ENCODINGS) or default
        self._slice = _parse_slice(config.raw("dataSlice"))
        self._get_account = get_account

    def __call__(self, account: Account | None) -> dict[str, Any] | None:
        """Return the account's JSON, None for no account."""
        if account is None:
            return None
        return {
            "lamports": account.lamports,
            "owner": str(account.owner),
            "executable": account.executable,
            "rentEpoch": account.rent_epoch,
            "space": len(account.data),
            "data": self._data(account),
        }

    def _data(self, account: Account) -> Any:
        if self._encoding == "jsonParsed":
            parsed = tokens.parsed_json(account, self._get_account)
            if parsed is not None:
                return parsed
        data = account.data
        if self._slice is not None:
            offset, length = self._slice
            data = data[offset : offset + length]
        if self._encoding in ("base64", "jsonParsed"):
            return [codec.to_base64(data), "base64"]
        if len(data) > BASE58_BYTES_MAX and self._lenient:
            return "error: data too large for bs58 encoding"
        if len(data) > BASE58_BYTES_MAX:
            raise RpcError(
                INVALID_REQUEST,
                f"Encoded binary (base 58) data should be less than {BASE58_BYTES_MAX} bytes, "
                "please use Base64 encoding.",
            )
        text = codec.to_base58(data)
        return text if self._encoding == "binary" else [text, "base58"]


def _parse_slice(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid_params("dataSlice must be an object")
    return parse_u64(value.get("offset"), "dataSlice.offset"), parse_u64(
        value.get("length"), "dataSlice.length"
    )
