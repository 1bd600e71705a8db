"""The JSON-RPC 2.0 envelope: requests in, answers and notifications out."""

from dataclasses import dataclass
from typing import Any

import msgspec

from contracts.localnet.rpc.errors import INVALID_REQUEST, PARSE_ERROR, RpcError
from machpay.protocol.encoding import decode_json
from machpay.protocol.errors import MalformedError

Id = str | int | None
_DECODER = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `wants_answer` is False for what JSON-RPC calls a notification: it came without an id."""

    id: Id
    method: str
    params: Any
    wants_answer: bool


def parse_body(body: bytes | str) -> Any:
    """Return what a body or message says. Raises RpcError where it is no JSON."""
    try:
        return decode_json(_DECODER, body if isinstance(body, bytes) else body.encode(), "the body")
    except MalformedError:
        raise RpcError(PARSE_ERROR, "Parse error") from None


def parse_request(value: Any) -> Request:
    """Return the request in a decoded JSON value. Raises RpcError."""
    if not isinstance(value, dict):
        raise RpcError(INVALID_REQUEST, "Invalid request")
    number, method = value.get("id"), value.get("method")
    if (
        value.get("jsonrpc") != "2.0"
        or not isinstance(method, str)
        or not isinstance(number, str | int | None)
    ):
        raise RpcError(INVALID_REQUEST, "Invalid request")
    return Request(number, method, value.get("params"), "id" in value)


def success(number: Id, result: Any) -> dict[str, Any]:
    """Return the answer to a request that worked."""
    return {"jsonrpc": "2.0", "result": result, "id": number}


def failure(number: Id, error: RpcError) -> dict[str, Any]:
    """Return the answer to a request that did not."""
    return {"jsonrpc": "2.0", "error": error.to_json(), "id": number}


def notification(method: str, subscription: int, result: Any) -> dict[str, Any]:
    """Return what a subscriber is sent."""
    return {"jsonrpc": "2.0", "method": method, "params": {"result": result, "subscription": subscription}}
