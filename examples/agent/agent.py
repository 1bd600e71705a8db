"""An agent that buys under rules: it reads what known gateways sell, calls the cheapest, and checks every receipt."""

import asyncio
import sys
from pathlib import Path
from urllib.parse import urljoin

from machpay import Budgets, LowBalance, MachPayClient, MachPayConfig, Proposal
from machpay.client.errors import BudgetError, ClientError
from machpay.client.receipts import KeptReceipt

CALLS = 4
WORDS = {"text": "micropayments", "a": "a cat", "b": "a dog"}
"""What the demo's services read from the query; an agent that is served nothing pays nothing, and learns nothing."""


def approve(proposal: Proposal) -> bool:
    """Asked for prices of 2,000 atomic units and more; a real agent would ask a person."""
    print(f"  {proposal.url} wants {proposal.price_atomic}: approved")
    return True


def warn(low: LowBalance) -> None:
    print(f"  only {low.available_atomic} left: time for another deposit")


async def offers(client: MachPayClient, gateway: str) -> list[tuple[int, str]]:
    """Price and URL of everything that a gateway sells for a GET, from its free manifest."""
    manifest = (await client.pay_and_call(urljoin(gateway, "/machpay.json"))).json()
    return [
        (endpoint["price_atomic"], urljoin(gateway, endpoint["path"]))
        for endpoint in manifest["endpoints"]
        if endpoint["method"] in ("GET", "*") and endpoint["price_atomic"] and "*" not in endpoint["path"]
    ]


async def main(demo: str) -> None:
    rules = Budgets(
        per_call_atomic=10_000, per_day_atomic=1_000_000, approve=approve, approve_from_atomic=2_000
    )
    state = Path(demo).parent / "example-agent"
    config = MachPayConfig.from_demo(demo, budgets=rules, state_dir=state, on_low_balance=warn)
    async with MachPayClient(config) as client:
        found = [offer for gateway in config.gateways for offer in await offers(client, gateway)]
        for price, url in sorted(found)[:CALLS]:
            try:
                answer = await client.pay_and_call(url, params=WORDS, max_price_atomic=price, retries=2)
                print(f"{url} {answer.status_code}, cost {answer.charged}")
            except BudgetError as error:
                print(f"{url} not allowed: {error}")
            except ClientError as error:
                print(f"{url} failed: {error}")
        kept = [] if client.receipts is None else [*map(KeptReceipt.from_line, client.receipts.lines())]
        total = sum(receipt.signed.receipt.charged for receipt in kept if receipt.is_valid)
        print(f"{len(kept)} receipts kept, {total} atomic units proven")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "var/demo.json"))
