"""Every write of the payments app, one module per subject.

network        which network this database belongs to
gateways       the gateway registry and heartbeats
leases         granting, renewing, releasing and freeing leases
pulse          since when gateways can deliver
enforcement    status, limits, kill switches, network rules and alarms, each with its record
changes        entries of the change stream
intake         storing resolved payments
recovery       storing resolved payments from a file instead of from the gateway
alarms         noticing in finalised state that bonds are about to shrink
config         the chain configuration that leases depend on
chain_mirror   following finalised chain state, ledger included
settlements    settlement transactions as rows: claim, store, transitions
lookup_tables  the registry of address lookup tables
"""
