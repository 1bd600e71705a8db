"""What an agent remembers between runs: the totals of its channels, in one small file per agent and network.

The file is a convenience, not a ledger. Totals only rise, so reading an old one is harmless: the next payment
is refused as too low and the gateway's corrective answer brings the proof. That is why writers do not lock
each other out: each merges what it finds and replaces the file whole, so a reader never sees half of it.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from machpay.chain.network import Network
from machpay.client.channels import Totals
from machpay.protocol.encoding import U64_MAX

VERSION: Final = 1
SAVE_EVERY_S: Final = 1.0


def state_path(directory: Path, agent: str, network: Network, suffix: str) -> Path:
    """Where one agent keeps one thing about one network. Channel addresses bind program, genesis and token;
    the file's name keeps networks apart for people."""
    return directory / f"{agent}-{str(network.domain)[:8]}-{str(network.program_id)[:8]}.{suffix}"


class _Entry(msgspec.Struct):
    total: str
    served: str
    signed: str


class _Document(msgspec.Struct):
    version: int
    agent: str
    channels: dict[str, _Entry]
    gateways: dict[str, str] = {}


class StateFile:
    """The totals of one agent on one network. Keys are channel addresses in base58."""

    def __init__(self, directory: Path, agent: str, network: Network) -> None:
        self.path = state_path(directory, agent, network, "json")
        self._agent = agent
        self._saved_at = float("-inf")

    def load(self) -> dict[str, Totals]:
        """The totals found; empty when there is no file or it does not read as one of ours."""
        document = self._read()
        found = {}
        for address, entry in document.channels.items():
            numbers = [_number(text) for text in (entry.total, entry.served, entry.signed)]
            if None not in numbers:
                found[address] = Totals(*(number or 0 for number in numbers))
        return found

    def load_gateways(self) -> dict[str, str]:
        """Origins, and the gateway (base58) that each showed last."""
        return self._read().gateways

    def _read(self) -> _Document:
        try:
            document = msgspec.json.decode(self.path.read_bytes(), type=_Document)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            document = None
        if document is None or document.version != VERSION or document.agent != self._agent:
            return _Document(VERSION, self._agent, {})
        return document

    def save(self, totals: dict[str, Totals], gateways: Mapping[str, str] = MappingProxyType({})) -> None:
        """Merge with what is there and replace the file. Raises `OSError`."""
        merged = self.load()
        for address, mine in totals.items():
            merged[address] = mine.merge(merged.get(address, Totals()))
        document = _Document(
            version=VERSION,
            agent=self._agent,
            channels={
                address: _Entry(str(known.total), str(known.served), str(known.signed))
                for address, known in sorted(merged.items())
            },
            gateways={**self.load_gateways(), **gateways},
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(f".{os.getpid()}.new")
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
        partial.replace(self.path)
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """True when the last save is long enough ago; payments are far more frequent than saves need to
        be."""
        return time.monotonic() - self._saved_at >= SAVE_EVERY_S


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        return None
    number = int(text)
    return number if number <= U64_MAX else None
