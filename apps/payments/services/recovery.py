"""Payments from a recovery file: what a gateway could not deliver, or the relayer lost, taken over by hand.

A file proves itself, so it does not matter who kept it: every line carries the agent's signature over the payment and
the gateway's receipt over what was charged, and the gateway must be one of the chain's. Storing is `record_batch`'s,
so a file that was imported before, in part or by another process at the same moment, moves nothing twice.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, islice
from typing import Final

import msgspec
from django.utils import timezone
from solders.pubkey import Pubkey

from apps.payments.models import Gateway
from apps.payments.services.intake import record_batch, what_is_stored
from apps.payments.verification import Refused, Verified, check_items
from machpay.chain.network import Network
from machpay.protocol.settlements import BadLine, Line, read_items

CHUNK_LINES: Final = 500
PROBLEMS_KEPT: Final = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that cannot be imported, and why: the relayer's codes, or what is wrong with the line."""

    line: int
    reason: str


@dataclass(slots=True)
class Survey:
    """What is in a file. `refused` lines cannot be imported; the first of them are in `problems`."""

    found: int = 0
    processed: int = 0
    new: int = 0
    refused: int = 0
    problems: list[Problem] = field(default_factory=list)

    def refuse(self, line: int, reason: str) -> None:
        self.refused += 1
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append(Problem(line, reason))


@dataclass(frozen=True, slots=True)
class _Ready:
    """A line whose signatures are right, of a gateway that exists."""

    line: int
    item: Verified
    vendor: str


def survey(lines: Iterable[bytes], *, network: Network) -> Survey:
    """Check every line and count what an import would do. Writes nothing."""
    result = Survey()
    seen: set[bytes] = set()
    for ready in _chunks(lines, network, timezone.now(), result):
        states = what_is_stored([each.item for each in ready])
        for each, state in zip(ready, states, strict=True):
            if state == "conflict":
                result.refuse(each.line, "nonce_replayed")
            elif state == "duplicate" or each.item.digest in seen:
                result.processed += 1
            else:
                result.new += 1
            seen.add(each.item.digest)
    return result


def import_items(lines: Iterable[bytes], *, network: Network, progress: Callable[[int], None]) -> Survey:
    """Store every payment of the file that is not stored yet; each chunk of lines commits by itself, so an import that
    was interrupted is simply run again. `progress` is told how many lines were read so far.

    Returns what was stored (`new`), what was there (`processed`) and what could not be taken over.
    """
    result = Survey()
    for ready in _chunks(lines, network, timezone.now(), result):
        for gateway, group in groupby(sorted(ready, key=_gateway), key=_gateway):
            _store(str(network.mint), gateway, list(group), result)
        progress(result.found)
    return result


def _gateway(ready: _Ready) -> str:
    return str(ready.item.payment.gateway)


def _store(mint: str, gateway: str, group: list[_Ready], result: Survey) -> None:
    answers = record_batch(
        mint=mint,
        gateway=gateway,
        vendor=group[0].vendor,
        items=[each.item for each in group],
        vouchers=[],
    )
    outcome = Counter(answer.status for answer in answers)
    result.new += outcome["accepted"]
    result.processed += outcome["duplicate"]
    for each, answer in zip(group, answers, strict=True):
        if answer.status == "rejected":
            result.refuse(each.line, answer.code or "rejected")


def _chunks(
    lines: Iterable[bytes], network: Network, now: datetime, result: Survey
) -> Iterator[list[_Ready]]:
    """The importable lines, a few hundred at a time; what is not importable is noted in `result`."""
    read = read_items(lines)
    while chunk := list(islice(read, CHUNK_LINES)):
        result.found += len(chunk)
        wanted = {line.item.gateway for line in chunk if isinstance(line, Line)}
        vendors = dict(Gateway.objects.filter(pubkey__in=wanted).values_list("pubkey", "vendor"))
        ready = []
        for line in chunk:
            judged = _judge(line, vendors, network, now)
            if isinstance(judged, str):
                result.refuse(line.number, judged)
            else:
                ready.append(judged)
        yield ready


def _judge(line: Line | BadLine, vendors: dict[str, str], network: Network, now: datetime) -> _Ready | str:
    """The line if it may be stored, else the reason."""
    if isinstance(line, BadLine):
        return line.reason
    vendor = vendors.get(line.item.gateway)
    if vendor is None:
        return f"unknown_gateway {line.item.gateway or '(none named)'}"
    if line.item.vendor and line.item.vendor != vendor:
        return "wrong_vendor"
    gateway = Pubkey.from_string(line.item.gateway)
    (checked,) = check_items([msgspec.Raw(line.raw)], network=network, gateway=gateway, now=now)
    if isinstance(checked, Refused):
        return checked.code
    if checked.payment.receipt is None:
        return "receipt_missing"
    return _Ready(line.number, checked, vendor)
