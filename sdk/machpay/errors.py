"""The root of the package's error tree.

MachPayError
├── protocol.errors.ProtocolError   malformed or wrongly signed bytes, refused payments
├── chain.errors.ChainError         RPC, transactions, the program's own errors
└── client.errors.ClientError       what an agent's code catches
"""


class MachPayError(Exception):
    """Anything this package raises on purpose. Catch a narrower type where you can."""
