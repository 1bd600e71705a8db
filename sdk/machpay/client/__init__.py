"""The agent client: pays HTTP gateways from one bond. See `client.MachPayClient`.

config     who pays, where, up to what price
terms      is a 402 what this agent stands for?       pure
headroom   how far above the known total to sign      pure
channels   what may be signed on one channel          pure
orders     one signed payment and its answers         pure
transport  HTTP, and what is known when it fails
store      totals that survive a restart
bonds      the deposit on chain
client     drives all of them
errors     one tree
"""

from machpay.client.client import MachPayClient
from machpay.client.config import MachPayConfig
from machpay.client.payments import PaidResponse, Payment

__all__ = ["MachPayClient", "MachPayConfig", "PaidResponse", "Payment"]
