"""What gateways and agents report, and what people watch live. Owns the event tables, the receiver
and the streams.

Latency, errors and routes come from here; money shown anywhere comes from payments and the ledger.
"""
