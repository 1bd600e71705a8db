"""What an agent's code catches.

ClientError
├── ConfigError               a setting is missing or cannot be used
├── GatewayUnreachableError   nothing was sent, or nothing was paid yet: safe to call again
├── GatewayMismatchError      the gateway asks for something this configuration does not stand for
├── PriceTooHighError         the price is above the limit of this call; nothing was signed
├── BudgetError               the agent's own rules forbid the payment; nothing was signed for it
│   ├── BudgetExceededError     `budget` says which: call, day or vendor
│   ├── NotAllowedError         the origin or the vendor is not on the allow-list
│   ├── ApprovalDeniedError     the approval callback said no
│   └── SpendingUnknownError    what was spent today cannot be read or written down
├── GatewayExposureError      the gateway has more signed than it has proven to have served; nothing was
│                             signed
├── BodySpentError            part of a body that can be sent once is gone: nothing was charged, call again with
│                             a fresh one
├── PaymentRefusedError       the gateway did not accept the payment; `code` says why; nothing was charged
│   └── BondRefusedPaymentError `insufficient_bond`: deposit more, or wait for settlement
├── InsufficientBondError     the bond does not cover it: a BondRefusedPaymentError or a WithdrawalTooLargeError
├── ReceiptError              an answer came, but not the gateway's valid word on what it cost; `response`
│                             holds it
├── UnresolvedPaymentError    sent, outcome unknown: do not call again blindly, look `digest` up
├── ResponseLostError         the outcome is known (`charged`), but the answer did not reach us
├── ProofError                a payment's place in an anchored batch cannot be shown
│   ├── NotAnchoredError        it is in no batch yet: ask again later
│   └── ProofUnavailableError   no proof, or not one that can be read
├── ComplaintError            a complaint was not handed in
│   ├── UnknownPaymentError     what this agent signed for the payment is not here any more
│   └── ComplaintRefusedError   the relayer does not take it; `status` and the text say why
└── BondError                 a deposit or a withdrawal that cannot work
    ├── InsufficientFundsError    the wallet holds less than the amount
    ├── BondTooSmallError         a first deposit below the network's minimum
    ├── DepositUnresolvedError    sent, outcome unknown: look at the bond before you deposit again
    ├── WithdrawalTooLargeError   more than the bond, or it would leave less than the minimum
    ├── TimelockError             the withdrawal is not unlocked yet; `unlocks_at` says when it is
    └── OutstandingLiabilityError charges are not settled yet; wait for settlement

Errors of the chain itself (RPC, transactions) are `machpay.chain.errors.ChainError`.
"""

from typing import Any

from machpay.errors import MachPayError
from machpay.protocol.encoding import to_rfc3339
from machpay.protocol.errors import RefusalCode
from machpay.protocol.receipts import SignedReceipt


class ClientError(MachPayError):
    """Anything the agent client raises on purpose."""


class ConfigError(ClientError):
    """The configuration is incomplete or contradicts itself. The text names the setting."""


class GatewayUnreachableError(ClientError):
    """No connection, or no answer to a request without payment. Nothing can have been charged."""

    def __init__(self, url: str, detail: str) -> None:
        super().__init__(f"{url}: {detail}")
        self.url = url
        self.detail = detail


class GatewayMismatchError(ClientError):
    """A 402 or its offer does not fit: network, program, token, gateway key or request hash."""

    def __init__(self, url: str, detail: str) -> None:
        super().__init__(f"{url}: {detail}")
        self.url = url
        self.detail = detail


class PriceTooHighError(ClientError):
    """The price is above the limit. Amounts in atomic units."""

    def __init__(self, url: str, price_atomic: int, max_price_atomic: int) -> None:
        super().__init__(f"{url} costs {price_atomic} atomic units, the limit is {max_price_atomic}")
        self.url = url
        self.price_atomic = price_atomic
        self.max_price_atomic = max_price_atomic


class BudgetError(ClientError):
    """The agent's own rules forbid this payment. Nothing was signed for it."""


class BudgetExceededError(BudgetError):
    """`budget` ("call", "day" or "vendor") has no room for the payment. Amounts in atomic units:
    `needed_atomic` is what the payment would authorise on top of `spent_atomic`."""

    def __init__(
        self, budget: str, *, limit_atomic: int, spent_atomic: int, needed_atomic: int, vendor: str
    ) -> None:
        super().__init__(
            f"the {budget} budget of {limit_atomic} has {limit_atomic - spent_atomic} left, "
            f"the payment to vendor {vendor} needs {needed_atomic}"
        )
        self.budget = budget
        self.limit_atomic = limit_atomic
        self.spent_atomic = spent_atomic
        self.needed_atomic = needed_atomic
        self.vendor = vendor


class NotAllowedError(BudgetError):
    """The origin or the vendor is not on the allow-list."""

    def __init__(self, url: str, detail: str) -> None:
        super().__init__(f"{url}: {detail}")
        self.url = url
        self.detail = detail


class ApprovalDeniedError(BudgetError):
    """The approval callback did not allow this call at this price (atomic units)."""

    def __init__(self, url: str, price_atomic: int) -> None:
        super().__init__(f"{url}: a price of {price_atomic} was not approved")
        self.url = url
        self.price_atomic = price_atomic


class SpendingUnknownError(BudgetError):
    """The record of today's spending cannot be read or written, so no budget can be kept."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path


class GatewayExposureError(ClientError):
    """Going on would leave this gateway with more than 64 prices signed beyond what its receipts prove.

    Amounts in atomic units: `signed` is the highest total ever signed to it, `served` what is proven,
    `claimed` the total it says it is committed to.
    """

    def __init__(self, gateway: str, *, signed: int, served: int, claimed: int, detail: str) -> None:
        super().__init__(
            f"gateway {gateway}: {detail} (signed {signed}, proven served {served}, claimed {claimed})"
        )
        self.gateway = gateway
        self.signed = signed
        self.served = served
        self.claimed = claimed


class BodySpentError(ClientError):
    """The gateway asked for (another) payment after part of a streamed body had been sent, and that body cannot be
    sent again. Nothing was charged. What was learned is kept: the same call with a fresh body, or with a file, goes
    through."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url}: part of the body is sent and cannot be sent again")
        self.url = url


class PaymentRefusedError(ClientError):
    """A 402 after payment. `code` is one of `RefusalCode`, or the gateway's own word if it is none of
    them."""

    def __init__(self, code: str, *, gateway: str, digest: bytes, attempts: int) -> None:
        super().__init__(f"gateway {gateway} refused payment {digest.hex()}: {code} ({attempts} attempts)")
        self.code = code
        self.gateway = gateway
        self.digest = digest
        self.attempts = attempts


class InsufficientBondError(ClientError):
    """The bond, less what is already owed, does not cover what was asked: a price or a withdrawal."""


class BondRefusedPaymentError(PaymentRefusedError, InsufficientBondError):
    """The gateway refused a payment because the bond does not cover the price."""


class ReceiptError(ClientError):
    """The answer's receipt is missing or not the gateway's valid word. `response` is the `httpx.Response`, so
    that what was delivered is not lost; the payment stays counted as unresolved until its deadline."""

    def __init__(self, detail: str, *, digest: bytes, response: Any) -> None:
        super().__init__(f"payment {digest.hex()}: {detail}")
        self.digest = digest
        self.response = response


class UnresolvedPaymentError(ClientError):
    """The payment was sent and nobody could say what became of it.

    It stays counted against the channel until `deadline` (unix seconds). `MachPayClient.look_up(url, digest)`
    asks again; a new call is a new payment. `earlier` are payments of the same call, made before it under the same
    identifier, of which nothing is known either: at most one of all was charged.
    """

    def __init__(
        self, url: str, *, digest: bytes, deadline: int, detail: str, earlier: tuple[bytes, ...] = ()
    ) -> None:
        also = "".join(f", or {one.hex()}" for one in earlier)
        super().__init__(f"{url}: payment {digest.hex()}{also} is unresolved: {detail}")
        self.url = url
        self.digest = digest
        self.earlier = earlier
        self.deadline = deadline
        self.detail = detail


class ResponseLostError(ClientError):
    """The exchange ended, but its answer did not arrive. `charged` (atomic units, 0 when void) is proven by
    `receipt`."""

    def __init__(self, url: str, *, digest: bytes, receipt: SignedReceipt) -> None:
        self.charged = receipt.receipt.charged
        super().__init__(f"{url}: the answer to payment {digest.hex()} was lost; charged {self.charged}")
        self.url = url
        self.digest = digest
        self.receipt = receipt


class ProofError(ClientError):
    """No proof for the payment `digest`."""

    def __init__(self, digest: bytes, detail: str) -> None:
        super().__init__(f"payment {digest.hex()}: {detail}")
        self.digest = digest
        self.detail = detail


class NotAnchoredError(ProofError):
    """The payment is not in an anchored batch yet."""

    def __init__(self, digest: bytes) -> None:
        super().__init__(digest, "it is in no batch yet; batches are anchored in turn")


class ProofUnavailableError(ProofError):
    """The proof does not exist, cannot be fetched or cannot be read."""


class ComplaintError(ClientError):
    """A complaint about a payment was not handed in."""


class UnknownPaymentError(ComplaintError):
    """What was signed for the payment `digest` is not known here: only the latest ones, and those that were not served,
    are kept."""

    def __init__(self, digest: bytes) -> None:
        super().__init__(f"payment {digest.hex()} is not one of those that are kept")
        self.digest = digest


class ComplaintRefusedError(ComplaintError):
    """The relayer's HTTP `status` and its words."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"the relayer answers {status}: {detail}")
        self.status = status
        self.detail = detail


class BondError(ClientError):
    """The bond cannot be changed as asked. Nothing was sent to the chain, or the program refused it."""


class InsufficientFundsError(BondError):
    """The wallet's token account holds less than the deposit. Amounts in atomic units."""

    def __init__(self, *, needed: int, held: int) -> None:
        super().__init__(f"the deposit needs {needed} atomic units, the wallet holds {held}")
        self.needed = needed
        self.held = held


class BondTooSmallError(BondError):
    """A first deposit must reach the network's minimum bond. Amounts in atomic units."""

    def __init__(self, *, amount: int, minimum: int) -> None:
        super().__init__(f"the first deposit must be at least {minimum} atomic units, not {amount}")
        self.amount = amount
        self.minimum = minimum


class DepositUnresolvedError(BondError):
    """A deposit was sent, and the chain does not say what became of it. It may still be made: compare the bond before
    depositing again."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            f"what became of the deposit is unknown, look at the bond before you repeat it: {detail}"
        )
        self.detail = detail


class WithdrawalTooLargeError(BondError, InsufficientBondError):
    """More than the bond holds, or it would leave less than `minimum` without emptying it. Atomic units."""

    def __init__(self, *, amount: int, balance: int, minimum: int) -> None:
        super().__init__(
            f"cannot withdraw {amount} of {balance} atomic units: all of it, or at least {minimum} must stay behind"
        )
        self.amount = amount
        self.balance = balance
        self.minimum = minimum


class TimelockError(BondError):
    """The pending withdrawal of `amount` (atomic units) may be executed from `unlocks_at` (unix seconds) on."""

    def __init__(self, *, unlocks_at: int, amount: int) -> None:
        super().__init__(f"the withdrawal of {amount} atomic units is locked until {to_rfc3339(unlocks_at)}")
        self.unlocks_at = unlocks_at
        self.amount = amount


class OutstandingLiabilityError(BondError):
    """`liability` (atomic units) was charged and is not settled yet: it comes out of the bond first."""

    def __init__(self, *, liability: int) -> None:
        super().__init__(f"{liability} atomic units are charged and not settled yet")
        self.liability = liability


def refused(code: str, *, gateway: str, digest: bytes, attempts: int) -> PaymentRefusedError:
    """The most specific error for a refusal."""
    kind = BondRefusedPaymentError if code == RefusalCode.INSUFFICIENT_BOND else PaymentRefusedError
    return kind(code, gateway=gateway, digest=digest, attempts=attempts)
