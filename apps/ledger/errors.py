"""Why the ledger refuses.

LedgerError(DomainError)
├── InvalidTransfer       unbalanced, empty or mixed: a bug of the caller
├── IdempotencyConflict   the key stands for another movement already
└── InsufficientFunds     an account that may not be negative would be
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
