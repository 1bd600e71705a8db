"""`machpay complain`: payments that were not served, and complaints about their gateways."""

import argparse
import asyncio
from dataclasses import replace

from machpay.cli.codes import OK
from machpay.cli.options import config_of, note, say
from machpay.client import MachPayClient, MachPayConfig


def run(options: argparse.Namespace) -> int:
    # Nothing else of a client is wanted here.
    config = replace(config_of(options), receiver_url=None)
    return asyncio.run(_list(options, config) if options.payment is None else _complain(options, config))


async def _list(options: argparse.Namespace, config: MachPayConfig) -> int:
    async with MachPayClient(config) as client:
        kept = list(client.evidence.kept())
    for one in kept:
        has_receipt = one.item.receipt is not None
        result = {
            "payment": one.payment,
            "gateway": one.item.gateway,
            "reason": one.reason,
            "receipt": has_receipt,
        }
        proof = "  with a receipt" if has_receipt else ""
        say(options, result, f"{one.payment}  {one.item.gateway}  {one.reason}{proof}")
    if not kept:
        note("every payment that is kept here was served")
    return OK


async def _complain(options: argparse.Namespace, config: MachPayConfig) -> int:
    async with MachPayClient(config) as client:
        answer = await client.complain(options.payment, detail=options.detail)
    say(options, {"id": answer.id, "verdict": answer.verdict}, f"complaint {answer.id}: {answer.verdict}")
    return OK
