"""Intents, channels and the gateway registry; the mirror of the chain; settlements as rows. Home of the
relayer process.

    models      what is stored
    services    every write: intake, heartbeats, the chain mirror, settlement rows
    selectors   every read that others use: liability, intents, settlements
    relayer     the raw-ASGI process that gateways talk to
    locks       the one order in which rows are locked

Money itself is kept by `apps.ledger`; sending transactions is recon's work (`apps.settlement`).
"""
