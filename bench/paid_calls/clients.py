"""Whole calls, one after the other, by clients as people use them: our SDK against the stock x402 client on httpx.

Each pays its own side's server: ours the gateway, the stock client the stock middleware. The price is known to both
after the first call; the stock client asks again every time, because that is how it works.
"""

import time

import uvloop
from x402 import x402Client
from x402.http.clients.httpx import x402HttpxClient

from bench.paid_calls.peer import StockScheme
from machpay.chain.network import Network
from machpay.client import MachPayClient, MachPayConfig
from machpay.protocol.keys import SigningKey

WARM_UP = 10


def sdk_calls(url: str, key: SigningKey, network: Network, count: int) -> list[float]:
    """Seconds of each of `count` calls by our SDK."""

    async def run() -> list[float]:
        async with MachPayClient(MachPayConfig(key=key, network=network)) as client:
            seconds = []
            for number in range(WARM_UP + count):
                began = time.perf_counter()
                answer = await client.pay_and_call(f"{url}/paid")
                if number >= WARM_UP:
                    seconds.append(time.perf_counter() - began)
                assert answer.status_code == 200, answer
                assert answer.payment is not None, answer
            return seconds

    return uvloop.run(run())


def stock_calls(url: str, key: SigningKey, count: int) -> list[float]:
    """Seconds of each of `count` calls by the stock client."""

    async def run() -> list[float]:
        client = x402Client().register("solana:*", StockScheme(key))
        async with x402HttpxClient(client, trust_env=False) as http:
            seconds = []
            for number in range(WARM_UP + count):
                began = time.perf_counter()
                answer = await http.get(f"{url}/paid")
                if number >= WARM_UP:
                    seconds.append(time.perf_counter() - began)
                assert answer.status_code == 200, answer
                assert "payment-response" in answer.headers, answer
            return seconds

    return uvloop.run(run())
