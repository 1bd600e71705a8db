"""Why the payments app refuses.

PaymentsError(DomainError)
├── NetworkMismatch      the database belongs to another network: the process must not start
├── UnknownGateway       no such gateway on chain
├── NotYours             the signer may not see or send this
├── UnknownLease         no such lease of this gateway
├── NotDelivered         the gateway has to deliver its log first
├── SlashedForGood       a slashed agent cannot be reinstated
├── LeasesTooLong        the configuration lets a claim unlock before leases are settled
├── UnknownAggregation   no open proposal to this agent has this id
├── BadAggregationSignature   not the agent's signature over the proposal
├── UnknownPayment       no payment with this digest was stored
├── NotBatchedYet        stored, and its batch is not final on the chain yet
├── ArchiveUnavailable   an archive of batches cannot be read or written
├── IncompleteSnapshot   an account moved that the part of the chain which was read does not hold
├── CaseClosed           the case was decided already
├── ComplaintRefused     the complaint does not prove what it has to
├── AlreadyAttributed    the deposit is not an unclaimed one
├── PaymentToSelf        a custodial payment goes to another user
├── ReferenceUsed        the reference stands for another custodial payment
├── UnknownUser          there is no such user
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


class UnknownLease(PaymentsError):
    code = "unknown_lease"
    status = 404


class NotDelivered(PaymentsError):
    code = "not_delivered"
    status = 409


class SlashedForGood(PaymentsError):
    code = "agent_slashed"
    status = 409


class LeasesTooLong(PaymentsError):
    code = "leases_too_long"
    status = 500


class UnknownAggregation(PaymentsError):
    code = "unknown_aggregation"
    status = 404


class BadAggregationSignature(PaymentsError):
    code = "invalid_signature"
    status = 422


class UnknownPayment(PaymentsError):
    code = "unknown_payment"
    status = 404


class NotBatchedYet(PaymentsError):
    code = "not_batched_yet"
    status = 409


class ArchiveUnavailable(PaymentsError):
    code = "archive_unavailable"
    status = 503


class IncompleteSnapshot(PaymentsError):
    code = "incomplete_snapshot"
    status = 503


class ChainUnavailable(PaymentsError):
    code = "chain_unavailable"
    status = 503


class CaseClosed(PaymentsError):
    code = "case_closed"
    status = 409


class ComplaintRefused(PaymentsError):
    code = "complaint_refused"
    status = 422


class AlreadyAttributed(PaymentsError):
    code = "already_attributed"
    status = 409


class PaymentToSelf(PaymentsError):
    code = "payment_to_self"
    status = 422


class ReferenceUsed(PaymentsError):
    code = "reference_used"
    status = 422


class UnknownUser(PaymentsError):
    code = "unknown_user"
    status = 404


class ChainRegression(PaymentsError):
    code = "chain_regression"
    status = 500
