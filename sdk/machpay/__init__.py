"""MachPay for Python: protocol bytes, a chain client and the agent client. Needs no Django.

`machpay.protocol` builds and parses every signed byte and every header; `machpay.chain` speaks to the Solana
program; `machpay.client` is what an agent imports. Lower parts never import higher ones:
protocol <- chain <- client.
"""

__version__ = "0.1.0"
