"""Why the payments app refuses.

PaymentsError(DomainError)
├── NetworkMismatch      the database belongs to another network: the process must not start
├── UnknownGateway       no such gateway on chain
├── NotYours             the signer may not see or send this
├── ChainUnavailable     the chain could not be asked in time: try again
└── ChainRegression      finalised state went backwards: wrong cluster or a broken RPC server
"""

from apps.core.errors import DomainError


class PaymentsError(DomainError):
    code = "payments_error"


class NetworkMismatch(PaymentsError):
    code = "network_mismatch"
    status = 500


class UnknownGateway(PaymentsError):
    code = "unknown_gateway"
    status = 403


class NotYours(PaymentsError):
    code = "not_yours"
    status = 403


class ChainUnavailable(PaymentsError):
    code = "chain_unavailable"
    status = 503


class ChainRegression(PaymentsError):
    code = "chain_regression"
    status = 500
