"""Recon: settles channels on-chain, follows the chain, and keeps the ledger equal to it.

    tasks       what beat runs; each is safe to run twice and by several workers at once
    services    sync (mirror the finalised chain), settle (plan, sign, store, send), follow (what became of it)
    chain       one task's connection to the chain, checked against the network the database belongs to

The rows are those of `apps.payments` and are written through its services; this room has no models.
docs/settlement.md has the states and what a crash at each line leaves behind.
"""
