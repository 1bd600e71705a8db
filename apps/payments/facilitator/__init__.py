"""The facilitator: stock x402 servers accept machpay-bond payments without running a gateway.

Served by the relayer process below `/facilitator`. It judges payments by the gateway's rules
(`machpay.protocol.screening`) and keeps no state of its own: a settled payment is a stored intent of the vendor's
hosted gateway, and what the agent can still spend is decided under the agent's row lock. It may not settle anything
on chain; recon does.
"""
