"""The local chain: real program bytecode in LiteSVM behind Solana's JSON-RPC, for one machine.

Reads from the bottom: `slots` (time), `bank` (the virtual machine), `versions` (what an account was at an
earlier slot), `storage` (the file), `ledger` (the chain made of these), `rpc` (JSON-RPC over it), `server`
(HTTP). Imports nothing of ours. It is a test bench with no consensus, no network and no adversary: never put
value on it.
"""
