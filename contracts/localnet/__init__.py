"""The local chain: real program bytecode in LiteSVM behind Solana's JSON-RPC, for one machine.

Reads from the bottom: `slots` (time), `bank` (the virtual machine), `versions` (what an account was at an
earlier slot), `storage` (the file), `faults` and `held` (what tests make go wrong), `ledger` (the chain made of
these), `rpc` (JSON-RPC over it), `feed` and `websocket` (subscriptions), `control_api` (what tests may do;
`control` is their client), `app` (all of it as ASGI), `server` (the process). Imports nothing of ours. It is a
test bench with no consensus, no network and no adversary: never put value on it.
"""
