"""MachPay bonds for the stock `x402` package: its clients pay gateways, its servers take payments.

Needs the optional dependency: `pip install 'machpay[x402]'`. Nothing else of this package imports it.

wallet       what a scheme may sign: prices, budgets, totals, corrections    no x402 types
client       `MachPayScheme` and `MachPaySchemeSync` for `x402Client` and `x402ClientSync`
server       `MachPayServerScheme` for `x402ResourceServer`
facilitator  the network's facilitator: its clients, and a scheme for an `x402Facilitator` of one's own
"""

from machpay.x402.client import MachPayScheme, MachPaySchemeSync
from machpay.x402.facilitator import (
    MachPayFacilitatorClient,
    MachPayFacilitatorClientSync,
    MachPayFacilitatorScheme,
)
from machpay.x402.server import MachPayServerScheme

__all__ = [
    "MachPayFacilitatorClient",
    "MachPayFacilitatorClientSync",
    "MachPayFacilitatorScheme",
    "MachPayScheme",
    "MachPaySchemeSync",
    "MachPayServerScheme",
]
