"""A buyer as a process of its own: `python -m tests.e2e.payer`. Prints one JSON object with everything it saw.

Several of these share one agent key in the tests; each is an ordinary SDK client.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from machpay import MachPayClient, MachPayConfig
from machpay.client.errors import ClientError


async def pay(manifest: Path, agent: int, calls: int, in_flight: int, stop: Path | None) -> dict[str, Any]:
    demo = json.loads(manifest.read_text())
    payments: list[dict[str, Any]] = []
    failures: list[str] = []
    budget = iter(range(calls))

    async def caller(client: MachPayClient, seed: int) -> None:
        rng = random.Random(seed)
        for number in budget:
            if stop is not None and stop.exists():
                return
            gateway = demo["gateways"][number % len(demo["gateways"])]
            path = gateway["paid_path"]
            began = time.time()
            try:
                response = await client.pay_and_call(url=gateway["url"] + path, method=gateway["method"])
            except ClientError as error:
                failures.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.2 + rng.random() / 5)
                continue
            if response.status_code == 200 and response.payment is not None:
                payments.append(
                    {
                        "gateway": gateway["gateway"],
                        "digest": response.payment.receipt.receipt.digest.hex(),
                        "charged": response.payment.charged,
                        "began": began,
                        "at": time.time(),
                    }
                )
            else:
                failures.append(f"http {response.status_code}: {response.text[:200]}")

    async with MachPayClient(MachPayConfig.from_demo(manifest, agent=agent)) as client:
        await asyncio.gather(*(caller(client, seed) for seed in range(in_flight)))
    return {"payments": payments, "failures": failures}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--agent", type=int, default=0)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--stop-file", type=Path, help="pay until this file exists")
    a = parser.parse_args()
    json.dump(asyncio.run(pay(a.manifest, a.agent, a.calls, a.in_flight, a.stop_file)), sys.stdout)


if __name__ == "__main__":
    main()
