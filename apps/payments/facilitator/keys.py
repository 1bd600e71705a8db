"""The keys of hosted gateways. All are derived from one, so that nothing has to be stored or backed up besides it."""

from pathlib import Path
from typing import Final

from solders.pubkey import Pubkey

from machpay.protocol.keys import SigningKey

_TAG: Final = b"machpay:facilitator:v1"


class HostedKeys:
    """One gateway key per vendor, for ever: `SigningKey.derive("machpay:facilitator:v1", vendor)`."""

    def __init__(self, root: SigningKey) -> None:
        self._root = root

    @classmethod
    def load(cls, path: str | Path) -> "HostedKeys":
        """From a keypair file. Raises `OSError` if it cannot be read, `MalformedError` if it holds no key."""
        return cls(SigningKey.load(path))

    def of(self, vendor: Pubkey) -> SigningKey:
        """The key of the gateway that is hosted for `vendor`."""
        return self._root.derive(_TAG, bytes(vendor))
