"""The receipts an agent keeps: gateways' signed words on what its payments came to, one JSON line each."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from solders.pubkey import Pubkey

from machpay.client.lines import LineFile
from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.receipts import SignedReceipt

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""About 12,000 receipts; twice that are kept."""
_DIGEST: Final = re.compile(rb'"digest": ?"([0-9a-f]{64})"')


@dataclass(frozen=True, slots=True)
class KeptReceipt:
    """One line: a receipt and the gateway that is said to have signed it."""

    gateway: Pubkey
    signed: SignedReceipt

    @property
    def is_valid(self) -> bool:
        """Whether the gateway's signature is over exactly this receipt."""
        return self.signed.is_signed_by(self.gateway)

    def to_json(self) -> dict[str, object]:
        return {"gateway": str(self.gateway), "receipt": self.signed.to_json()}

    @classmethod
    def from_line(cls, line: str) -> "KeptReceipt":
        """Raises `MalformedError`."""
        try:
            document = json.loads(line)
            return cls(
                parse_pubkey(document["gateway"], "gateway"), SignedReceipt.from_json(document["receipt"])
            )
        except (ValueError, KeyError, TypeError) as error:
            raise MalformedError("not a line with a gateway and its receipt") from error


class ReceiptFile:
    """The receipts of one agent on one network."""

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path, MAX_FILE_BYTES)

    def add(self, gateway: Pubkey, signed: SignedReceipt) -> None:
        """Append one receipt; trouble is logged."""
        self._file.append(msgspec.json.encode(KeptReceipt(gateway, signed).to_json()))

    def lines(self) -> Iterator[str]:
        """Every line kept, oldest first."""
        for line in self._file.read():
            yield line.decode(errors="replace")

    def digests(self) -> set[str]:
        """The payments whose receipts are kept, lowercase hex."""
        return {found.decode() for line in self._file.read() for found in _DIGEST.findall(line)}
