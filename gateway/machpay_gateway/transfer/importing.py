"""Lines of an export judged, and handed to the relayer.

A line proves itself: the agent signed the payment and this gateway its receipt, so it does not matter who kept the
file. The relayer knows a payment by its digest, so handing one over twice changes nothing.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import msgspec
from solders.pubkey import Pubkey

from machpay.chain.network import Network
from machpay.protocol.encoding import decode_json, parse_pubkey
from machpay.protocol.errors import MalformedError
from machpay.protocol.intents import Voucher
from machpay.protocol.settlements import (
    BadLine,
    ItemResult,
    Line,
    ResolvedPayment,
    SettlementAnswer,
    parse_item,
    read_items,
    verify_item,
)
from machpay.protocol.x402 import voucher_json
from machpay_gateway.backoff import Backoff
from machpay_gateway.errors import RelayerError
from machpay_gateway.peers import Peers

MAX_BATCH: Final = 500
ATTEMPTS: Final = 6
PROBLEMS_KEPT: Final = 20
_LASTING: Final = frozenset({400, 401, 403, 404, 413, 422})
_decoder = msgspec.json.Decoder(SettlementAnswer)


@dataclass(frozen=True, slots=True)
class Good:
    """A line that proves itself."""

    line: Line
    payment: ResolvedPayment


@dataclass(slots=True)
class Report:
    """What became of the lines. `good` ones prove themselves; of those that were handed over, `imported` were new,
    `known` were there, and the relayer refused `rejected`. The first `problems` are (line number, reason)."""

    found: int = 0
    good: int = 0
    bad: int = 0
    imported: int = 0
    known: int = 0
    rejected: int = 0
    charged_atomic: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)

    def note(self, line: int, reason: str) -> None:
        if len(self.problems) < PROBLEMS_KEPT:
            self.problems.append((line, reason))


def judged(lines: Iterable[bytes], network: Network, gateway: Pubkey, report: Report) -> Iterator[Good]:
    """The lines that prove themselves as payments to `gateway`; the others are noted in `report`."""
    for each in read_items(lines):
        report.found += 1
        found = each.reason if isinstance(each, BadLine) else _judge(each, network, gateway)
        if isinstance(found, str):
            report.bad += 1
            report.note(each.number, found)
            continue
        report.good += 1
        report.charged_atomic += found.payment.charged
        yield found


def _judge(line: Line, network: Network, gateway: Pubkey) -> Good | str:
    try:
        agent = parse_pubkey(line.item.agent, "agent")
        payment = parse_item(line.item, gateway=gateway, channel=network.channel(agent, gateway))
    except MalformedError as error:
        return error.detail
    if payment.receipt is None:
        return "it has no receipt, so nothing proves what was charged"
    if not verify_item(payment):
        return "a signature is wrong: of another network, another gateway, or changed"
    return Good(line, payment)


async def hand_over(
    goods: Iterable[Good], peers: Peers, relayer_url: str, report: Report, progress: Callable[[int], None]
) -> None:
    """Give every payment to the relayer, in batches; each is stored when its batch is answered, so an import that was
    interrupted is simply run again. `progress` is told how many were handed over.

    Raises `RelayerError` when the relayer does not take them in `ATTEMPTS`.
    """
    done = 0
    queue = iter(goods)
    while batch := list(islice(queue, MAX_BATCH)):
        await _hand_over(batch, peers, relayer_url, report)
        done += len(batch)
        progress(done)


async def _hand_over(batch: list[Good], peers: Peers, relayer_url: str, report: Report) -> None:
    backoff, attempt = Backoff(), 0
    while batch:
        attempt += 1
        try:
            results = await _post(batch, peers, relayer_url)
        except RelayerError as error:
            if attempt == ATTEMPTS or error.status in _LASTING:
                raise
            await asyncio.sleep(error.retry_after_s or backoff.next_s())
            continue
        again = []
        for good, result in zip(batch, results, strict=True):
            if result.retry:
                again.append(good)
            else:
                _count(report, good, result)
        if again and attempt == ATTEMPTS:
            raise RelayerError(f"the relayer cannot take {len(again)} of the payments yet")
        batch = again
        if batch:
            await asyncio.sleep(backoff.next_s())


def _count(report: Report, good: Good, result: ItemResult) -> None:
    if result.status == "accepted":
        report.imported += 1
    elif result.status == "duplicate":
        report.known += 1
    else:
        report.rejected += 1
        report.note(good.line.number, f"rejected by the relayer: {result.code or 'unknown'}")


async def _post(batch: list[Good], peers: Peers, relayer_url: str) -> list[ItemResult]:
    seqs = [good.payment.seq for good in batch]
    body = {
        "gateway_id": str(batch[0].payment.gateway),
        "batch": [good.line.item for good in batch],
        "vouchers": _highest_vouchers(batch),
        "seq_from": min(seqs),
        "seq_to": max(seqs),
    }
    raw = await peers.post(relayer_url, "/settlements", msgspec.json.encode(body))
    try:
        results: list[ItemResult] = decode_json(_decoder, raw, "the relayer's answer does not parse").results
    except MalformedError as error:
        raise RelayerError(error.detail) from error
    if len(results) != len(batch):
        raise RelayerError(f"the relayer answered {len(results)} of {len(batch)} payments")
    return results


def _highest_vouchers(batch: list[Good]) -> list[dict[str, Any]]:
    highest: dict[Pubkey, Voucher] = {}
    for good in batch:
        voucher = good.payment.voucher
        known = highest.get(good.payment.agent)
        if known is None or voucher.cumulative > known.cumulative:
            highest[good.payment.agent] = voucher
    return [dict(voucher_json(voucher)) for voucher in highest.values()]
