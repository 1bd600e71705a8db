"""Solana's JSON-RPC over a `Ledger`: `dispatch` answers request bodies, with one module per family of methods.

Parses, asks the ledger, renders. Knows nothing of HTTP and decides nothing about the chain.
"""

from contracts.localnet.rpc.dispatch import Dispatcher

__all__ = ["Dispatcher"]
