"""Solana's JSON-RPC over a `Ledger`: `dispatch` answers request bodies, with one module per family of methods.

Parses, asks the ledger, renders. Knows nothing of sockets and decides nothing about the chain. `subscriptions` has
what WebSocket clients may ask for.
"""

from contracts.localnet.rpc.dispatch import Answer, Dispatcher

__all__ = ["Answer", "Dispatcher"]
