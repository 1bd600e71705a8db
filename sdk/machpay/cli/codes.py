"""What the command's exit codes mean, and which error is which."""

from typing import Final

from machpay.chain.errors import ChainError, ConfirmationTimeout, TransactionFailed, TransactionRejected
from machpay.client.errors import (
    BondError,
    BudgetError,
    ConfigError,
    DepositUnresolvedError,
    GatewayUnreachableError,
    PriceTooHighError,
    ReceiptError,
    ResponseLostError,
    UnresolvedPaymentError,
)
from machpay.protocol.errors import MalformedError

OK, UNREACHABLE, MISUSED, FORBIDDEN, REFUSED, UNKNOWN, FAILED = range(7)
INTERRUPTED: Final = 130
EXIT_CODES: Final = """exit codes:
  0  done
  1  gateway, chain or relayer could not be reached; nothing was charged
  2  wrong arguments, configuration or key
  3  the agent's own limits forbid it; nothing was signed
  4  the gateway, the program or the wallet refused it; nothing was charged
  5  the answer was lost or the outcome is unknown: the payment may have been charged, the deposit made
  6  call: an HTTP error status; receipts: an invalid one, or one that the chain does not confirm;
     run-e2e: a mismatch, or nothing paid
"""


def exit_code(error: Exception) -> int:
    """The code for an error that ended the command."""
    for kinds, code in (
        ((ConfigError, MalformedError, OSError), MISUSED),
        ((BudgetError, PriceTooHighError), FORBIDDEN),
        ((UnresolvedPaymentError, ResponseLostError, ReceiptError), UNKNOWN),
        ((DepositUnresolvedError, ConfirmationTimeout), UNKNOWN),
        ((BondError, TransactionFailed, TransactionRejected), REFUSED),
        ((GatewayUnreachableError, ChainError), UNREACHABLE),
    ):
        if isinstance(error, kinds):
            return code
    return REFUSED
