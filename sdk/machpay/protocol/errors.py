"""What can be wrong with bytes that arrive.

ProtocolError
├── MalformedError     cannot be parsed: HTTP 400
└── SignatureError     parsed, but not signed by whom it says: HTTP 401
"""

from enum import StrEnum

from machpay.errors import MachPayError


class RefusalCode(StrEnum):
    """Why a payment was not accepted. The values are part of the protocol and never change meaning."""

    PAYMENT_REQUIRED = "payment_required"
    INVALID_SIGNATURE = "invalid_signature"
    INTENT_EXPIRED = "intent_expired"
    NONCE_REPLAYED = "nonce_replayed"
    INSUFFICIENT_BOND = "insufficient_bond"
    AMOUNT_TOO_LOW = "amount_too_low"
    CUMULATIVE_TOO_LOW = "cumulative_too_low"
    WRONG_GATEWAY = "wrong_gateway"
    REQUEST_MISMATCH = "request_mismatch"
    AGENT_SLASHED = "agent_slashed"
    AGENT_SUSPENDED = "agent_suspended"
    BUDGET_EXCEEDED = "budget_exceeded"
    PAYMENT_PENDING = "payment_pending"


class ProtocolError(MachPayError):
    """Bytes from a peer that cannot be used. `code` is stable, `detail` is for people."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class MalformedError(ProtocolError):
    """The bytes do not parse: a wrong length, alphabet, type or a missing field."""

    def __init__(self, detail: str) -> None:
        super().__init__("malformed", detail)


class SignatureError(ProtocolError):
    """The bytes parse, but the signature, its time window or its signer is wrong."""

    def __init__(self, detail: str) -> None:
        super().__init__(RefusalCode.INVALID_SIGNATURE, detail)
