"""JSON-RPC 2.0: one request or a batch of them in, the answer out, everything it changed on disk before.

A request without an id is a notification: it is done and gets no answer. An unexpected failure is logged and
answered with -32603. When the chain could not be written down the error goes through: memory and file differ,
the process must end.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from contracts.localnet.errors import ChainBroken
from contracts.localnet.ledger import Ledger
from contracts.localnet.rpc import accounts, chain, tokens, transactions
from contracts.localnet.rpc.context import Call
from contracts.localnet.rpc.errors import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    RpcError,
)
from contracts.localnet.rpc.params import Params

BATCH_MAX = 1_000
METHODS: dict[str, Callable[[Call], Any]] = (
    chain.METHODS | accounts.METHODS | tokens.METHODS | transactions.METHODS
)

_log = logging.getLogger(__name__)


class Dispatcher:
    """Answers request bodies from one ledger. `calls` counts the methods called."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.calls: Counter[str] = Counter()

    def handle(self, body: bytes) -> bytes | None:
        """Return the answer to a request body, or None when there is nothing to answer."""
        try:
            request = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.encode(_failure(None, RpcError(PARSE_ERROR, "Parse error")))
        self._ledger.advance()
        answer = self._batch(request) if isinstance(request, list) else self._one(request)
        self._ledger.commit()
        return None if answer is None else msgspec.json.encode(answer)

    def _batch(self, requests: list[Any]) -> Any:
        if not requests or len(requests) > BATCH_MAX:
            return _failure(None, RpcError(INVALID_REQUEST, f"A batch has 1 to {BATCH_MAX} requests"))
        return [answer for answer in map(self._one, requests) if answer is not None] or None

    def _one(self, request: Any) -> dict[str, Any] | None:
        if not isinstance(request, dict):
            return _failure(None, RpcError(INVALID_REQUEST, "Invalid request"))
        number = request.get("id")
        name = request.get("method")
        if (
            request.get("jsonrpc") != "2.0"
            or not isinstance(name, str)
            or not isinstance(number, str | int | None)
        ):
            return _failure(None, RpcError(INVALID_REQUEST, "Invalid request"))
        answer = self._call(name, request.get("params"), number)
        return answer if "id" in request else None

    def _call(self, name: str, params: Any, number: str | int | None) -> dict[str, Any]:
        method = METHODS.get(name)
        if method is None:
            return _failure(number, RpcError(METHOD_NOT_FOUND, "Method not found"))
        self.calls[name] += 1
        try:
            result = method(Call(self._ledger, Params(params)))
        except RpcError as error:
            return _failure(number, error)
        except ChainBroken:
            raise
        except Exception:
            _log.exception("%s failed", name)
            return _failure(number, RpcError(INTERNAL_ERROR, "Internal error"))
        return {"jsonrpc": "2.0", "result": result, "id": number}


def _failure(number: str | int | None, error: RpcError) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "error": error.to_json(), "id": number}
