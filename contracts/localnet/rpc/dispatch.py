"""JSON-RPC 2.0: one request or a batch of them in, the answer out, everything it changed on disk before.

A request without an id is a notification: it is done and gets no answer. An unexpected failure is logged and
answered with -32603. When the chain could not be written down the error goes through: memory and file differ,
the process must end.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from contracts.localnet.errors import ChainBroken
from contracts.localnet.faults import ErrorAnswer, Interruption, LateAnswer
from contracts.localnet.ledger import Ledger
from contracts.localnet.rpc import accounts, chain, history, tokens, transactions
from contracts.localnet.rpc.context import Call
from contracts.localnet.rpc.envelope import Request, failure, parse_body, parse_request, success
from contracts.localnet.rpc.errors import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    RpcError,
)
from contracts.localnet.rpc.params import Params

BATCH_MAX = 1_000
METHODS: dict[str, Callable[[Call], Any]] = (
    chain.METHODS | accounts.METHODS | tokens.METHODS | transactions.METHODS | history.METHODS
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """The HTTP status and body (None for no content) of an answer that leaves after `seconds`."""

    status: int
    body: bytes | None
    seconds: float = 0


class _Interrupted(Exception):
    def __init__(self, fault: Interruption) -> None:
        super().__init__(f"answered with status {fault.status}")
        self.fault = fault


class Dispatcher:
    """Answers request bodies from one ledger. `calls` counts the methods called."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._late_seconds = 0.0
        self.calls: Counter[str] = Counter()

    def handle(self, body: bytes) -> Answer:
        """Return the answer to a request body."""
        try:
            request = parse_body(body)
        except RpcError as error:
            return _answer(failure(None, error))
        self._ledger.advance()
        self._late_seconds = 0.0
        try:
            answer = self._batch(request) if isinstance(request, list) else self._one(request)
        except _Interrupted as interrupted:
            fault = interrupted.fault
            return Answer(fault.status, b'{"error":"a fault that a test asked for"}', fault.seconds)
        finally:
            self._ledger.commit()
        return _answer(answer, self._late_seconds)

    def _batch(self, requests: list[Any]) -> Any:
        if not requests or len(requests) > BATCH_MAX:
            return failure(None, RpcError(INVALID_REQUEST, f"A batch has 1 to {BATCH_MAX} requests"))
        return [answer for answer in map(self._one, requests) if answer is not None] or None

    def _one(self, value: Any) -> dict[str, Any] | None:
        try:
            request = parse_request(value)
        except RpcError as error:
            return failure(None, error)
        answer = self._call(request)
        return answer if request.wants_answer else None

    def _call(self, request: Request) -> dict[str, Any]:
        method = METHODS.get(request.method)
        if method is None:
            return failure(request.id, RpcError(METHOD_NOT_FOUND, "Method not found"))
        self.calls[request.method] += 1
        try:
            self._apply_fault(request.method)
            return success(request.id, method(Call(self._ledger, Params(request.params))))
        except RpcError as error:
            return failure(request.id, error)
        except (ChainBroken, _Interrupted):
            raise
        except Exception:
            _log.exception("%s failed", request.method)
            return failure(request.id, RpcError(INTERNAL_ERROR, "Internal error"))

    def _apply_fault(self, method: str) -> None:
        match self._ledger.faults.take_call(method):
            case ErrorAnswer() as fault:
                raise RpcError(fault.code, fault.message, fault.data)
            case Interruption() as fault:
                raise _Interrupted(fault)
            case LateAnswer(seconds):
                self._late_seconds = max(self._late_seconds, seconds)


def _answer(value: Any, seconds: float = 0) -> Answer:
    return Answer(204, None, seconds) if value is None else Answer(200, msgspec.json.encode(value), seconds)
