"""The agent client: pays HTTP gateways from one bond. See `client.MachPayClient`.

config     who pays, where, up to what price
budgets    what the agent's owner allows               pure
terms      is a 402 what this agent stands for?       pure
headroom   how far above the known total to sign      pure
channels   what may be signed on one channel          pure
orders     one signed payment and its answers         pure
transport  HTTP, and what is known when it fails
wire       pooled connections
connection one HTTP/1.1 connection
streams    answers handed on piece by piece
uploads    bodies that are sent without being held
exchange   one payment over HTTP until its outcome is known
prices     what routes cost and whose origins are whose, as far as it was seen
paying     one call: gates, signatures, corrections
store      totals that survive a restart
receipts   what gateways signed, kept
lines      bounded files that processes append to together
spending   what was authorised today, under a lock
anchors    is a payment in a batch that the chain anchors?
cosigning  one signature for many settlements, if it authorises nothing new
balance    what the bond has left, and when it runs low
bonds      the deposit on chain
withdrawals the way out of it
telemetry  a packet a minute for the receiver, never in the way
client     wires them together
errors     one tree
"""

from machpay.client.balance import LowBalance
from machpay.client.budgets import Budgets, Proposal
from machpay.client.client import MachPayClient
from machpay.client.config import MachPayConfig
from machpay.client.payments import PaidResponse, Payment

__all__ = ["Budgets", "LowBalance", "MachPayClient", "MachPayConfig", "PaidResponse", "Payment", "Proposal"]
