"""Why the vendors app refuses.

VendorsError(DomainError)
├── DestinationNotUsable   not confirmed, or its cooling-off is not over
├── UnknownDestination     the user has no such wallet
├── BadConfirmation        not the wallet's signature over the challenge
├── ReferenceUsed          the reference stands for another payout
├── PayoutLimit            below the minimum, or above what a day may pay
└── PayoutUnderWay         too late to cancel: it was sent, or has ended
"""

from apps.core.errors import DomainError


class VendorsError(DomainError):
    code = "vendors_error"


class DestinationNotUsable(VendorsError):
    code = "destination_not_usable"
    status = 409


class UnknownDestination(VendorsError):
    code = "unknown_destination"
    status = 404


class BadConfirmation(VendorsError):
    code = "bad_confirmation"
    status = 422


class ReferenceUsed(VendorsError):
    code = "reference_used"
    status = 422


class PayoutLimit(VendorsError):
    code = "payout_limit"
    status = 422


class PayoutUnderWay(VendorsError):
    code = "payout_under_way"
    status = 409
