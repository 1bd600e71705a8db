"""`machpay call`: one paid call, as curl would make it."""

import argparse
import asyncio
import json
import sys
from pathlib import Path

from machpay.cli.codes import FAILED, OK, UNKNOWN
from machpay.cli.options import config_of, note, usdc
from machpay.client import MachPayClient


def run(options: argparse.Namespace) -> int:
    return asyncio.run(_stream(options))


async def _stream(options: argparse.Namespace) -> int:
    headers = dict(options.header)
    data = options.data if options.json_data is None else options.json_data
    if options.json_data is not None:
        headers = {"Content-Type": "application/json", "Accept": "application/json"} | headers
    content = _data(data)
    method = options.method or ("GET" if content is None else "POST")
    async with (
        MachPayClient(config_of(options)) as client,
        client.stream(
            options.url,
            method,
            headers=headers,
            content=content,
            max_price_atomic=options.max_price_atomic,
            retries=options.retries,
            payment_id=options.payment_id,
        ) as response,
    ):
        unwritten: OSError | None = None
        try:
            async for piece in response.aiter_bytes():
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()
        except OSError as error:
            unwritten = error
    payment = response.payment
    digest = None if payment is None else payment.digest.hex()
    result = {"status": response.status_code, "charged_atomic": response.charged, "payment": digest}
    text = f"HTTP {response.status_code}, cost {usdc(response.charged)} USDC"
    print(
        json.dumps(result) if options.as_json else text + (f", payment {digest}" if digest else ""),
        file=sys.stderr,
    )
    if unwritten is not None:
        # It is paid for all the same, and what it cost has been told.
        note(f"the answer could not be written: {unwritten}")
        return UNKNOWN
    return OK if response.status_code < 400 else FAILED


def _data(text: str | None) -> bytes | None:
    """The body: the text itself, or with @ the file it names, - being stdin."""
    if text is None or not text.startswith("@"):
        return None if text is None else text.encode()
    return sys.stdin.buffer.read() if text == "@-" else Path(text[1:]).read_bytes()
