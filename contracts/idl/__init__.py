"""The program's interface as an Anchor IDL (format of Anchor 0.30 and later), for clients that are not ours.

    describe    the one description: instructions with their accounts and arguments, account layouts
    document    turns it into the IDL's JSON; events and errors come from machpay.chain

`python -m contracts.idl` writes machpay.json. Tests compare it with the Rust source and with our own builders.
"""
