"""The receipts an agent keeps: gateways' signed words on what its payments came to, one JSON line each.

The file is bounded: when it is full it becomes the previous one, and a new one begins. A payment does not fail
because its receipt could not be written down.
"""

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from solders.pubkey import Pubkey

from machpay.protocol.encoding import parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.receipts import SignedReceipt

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""About 12,000 receipts; twice that are kept."""

logger = logging.getLogger(__name__)


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
        self.path = path
        self.previous = path.with_suffix(".previous.jsonl")

    def add(self, gateway: Pubkey, signed: SignedReceipt) -> None:
        """Append one receipt; trouble is logged."""
        line = msgspec.json.encode(KeptReceipt(gateway, signed).to_json()) + b"\n"
        try:
            try:
                size = self._append(line)
            except FileNotFoundError:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                size = self._append(line)
            if size >= MAX_FILE_BYTES:
                self.path.replace(self.previous)
        except OSError as error:
            logger.warning("keeping a receipt in %s: %s", self.path, error)

    def _append(self, line: bytes) -> int:
        """The file's size afterwards. It is opened anew for every line: another process may have begun a new one."""
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            # One write in append mode: lines of several processes do not mix.
            os.write(file, line)
            return os.lseek(file, 0, os.SEEK_CUR)
        finally:
            os.close(file)

    def lines(self) -> Iterator[str]:
        """Every line kept, oldest first."""
        for path in (self.previous, self.path):
            if path.exists():
                yield from path.read_text().splitlines()
