"""The MachPay program seen from Python: addresses, instructions, accounts and an RPC client.

    network       which chain, program and token; every derived address
    accounts      the program's accounts decoded from bytes
    ed25519       the signature-check instruction that settle_cumulative reads
    instructions  builders, one per instruction of the program
    events        the program's events, decoded from bytes
    traces        which calls of a transaction are events of the program
    tokens        what is needed of the SPL Token program
    lookup_tables address lookup tables, and what settlements look up in them
    client        sending, confirming and reading over JSON-RPC
    setup         initialising a mint's bond
    loader        deploying the program
    errors        one tree, with the program's numbered errors

It may import `machpay.protocol` and never the agent client. Nothing here keeps state besides an address cache.
"""
