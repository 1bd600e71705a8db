"""MachPay for Python: protocol bytes, a chain client and the agent client. Needs no Django.

`machpay.protocol` builds and parses every signed byte and every header; `machpay.chain` speaks to the Solana
program; `machpay.client` is what an agent imports. Lower parts never import higher ones:
protocol <- chain <- client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from machpay.client import (
        Budgets,
        LowBalance,
        MachPayClient,
        MachPayConfig,
        PaidResponse,
        Payment,
        Proposal,
    )

__all__ = ["Budgets", "LowBalance", "MachPayClient", "MachPayConfig", "PaidResponse", "Payment", "Proposal"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loaded on first use: a gateway that imports machpay.protocol must not load an HTTP client.
    if name in __all__:
        return getattr(import_module("machpay.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
