"""Why the ledger refuses.

LedgerError(DomainError)
├── InvalidTransfer       unbalanced, empty or mixed: a bug of the caller
├── IdempotencyConflict   the key stands for another movement already
├── InsufficientFunds     an account that may not be negative would be, or less than what is held of it
└── HoldError
    ├── HoldNotFound      no hold has this key
    └── HoldResolved      the hold was posted, voided, or has expired: it resolves once
"""

from apps.core.errors import DomainError


class LedgerError(DomainError):
    code = "ledger_error"


class InvalidTransfer(LedgerError):
    code = "invalid_transfer"
    status = 500


class IdempotencyConflict(LedgerError):
    code = "idempotency_conflict"
    status = 422


class InsufficientFunds(LedgerError):
    code = "insufficient_funds"
    status = 409


class HoldError(LedgerError):
    code = "hold_error"
    status = 409


class HoldNotFound(HoldError):
    code = "hold_not_found"
    status = 404


class HoldResolved(HoldError):
    code = "hold_resolved"
