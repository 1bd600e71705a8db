"""`machpay receipts`: what gateways signed, listed, checked, and proven from the chain."""

import argparse
import asyncio
from collections import Counter
from pathlib import Path

from machpay.cli.codes import FAILED, OK
from machpay.cli.options import config_of, note, say, state_dir, usdc
from machpay.client import MachPayClient, MachPayConfig
from machpay.client.errors import NotAnchoredError, ProofUnavailableError
from machpay.client.receipts import KeptReceipt, ReceiptFile
from machpay.client.store import state_path
from machpay.protocol.errors import MalformedError


def run(options: argparse.Namespace) -> int:
    config = config_of(options)
    path = state_path(state_dir(options), config.key.pubkey, config.network, "receipts.jsonl")
    if options.action == "prove":
        return asyncio.run(_prove(options, config, path))
    return _verify(options, path) if options.action == "verify" else _list(options, path)


def _list(options: argparse.Namespace, path: Path) -> int:
    lines = list(ReceiptFile(path).lines())
    if not lines:
        note(f"no receipts in {path}")
    for line in lines:
        try:
            kept = KeptReceipt.from_line(line)
        except MalformedError:
            continue
        receipt = kept.signed.receipt
        say(
            options,
            kept.to_json(),
            f"{receipt.digest.hex()}  {kept.gateway}  {receipt.http_status}  {usdc(receipt.charged)}",
        )
    return OK


def _verify(options: argparse.Namespace, path: Path) -> int:
    valid = invalid = charged = 0
    for line in ReceiptFile(path).lines():
        try:
            kept = KeptReceipt.from_line(line)
        except MalformedError:
            invalid += 1
            continue
        valid += kept.is_valid
        invalid += not kept.is_valid
        charged += kept.signed.receipt.charged if kept.is_valid else 0
    say(
        options,
        {"valid": valid, "invalid": invalid, "charged_atomic": charged},
        f"{valid} valid receipts over {usdc(charged)} USDC, {invalid} invalid",
    )
    return FAILED if invalid else OK


async def _prove(options: argparse.Namespace, config: MachPayConfig, path: Path) -> int:
    """Every receipt of a charge, in order: anchored, waiting for its batch, or not what the chain says."""
    counts = Counter[str]()
    async with MachPayClient(config) as client:
        for line in ReceiptFile(path).lines():
            try:
                kept = KeptReceipt.from_line(line)
            except MalformedError:
                counts["unreadable"] += 1
                continue
            receipt = kept.signed.receipt
            if not receipt.charged:
                continue
            try:
                state = "anchored" if await client.verify_inclusion(kept.signed) else "contradicted"
            except NotAnchoredError:
                state = "waiting"
            except ProofUnavailableError:
                state = "unknown"
            counts[state] += 1
            say(
                options,
                {"payment": receipt.digest.hex(), "state": state, "charged_atomic": receipt.charged},
                f"{receipt.digest.hex()}  {usdc(receipt.charged)}  {state}",
            )
    if counts["unreadable"]:
        note(f"{counts['unreadable']} lines of {path} are no receipts")
    return OK if counts.keys() <= {"anchored", "waiting"} else FAILED
