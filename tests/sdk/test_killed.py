"""An agent's process may be killed at any point: nothing is charged that was not served, its budget holds, and the next
process goes on from the files it left and asks for the receipts that are missing."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from machpay import Budgets
from machpay.client.errors import BudgetExceededError
from machpay.client.receipts import KeptReceipt, ReceiptFile
from machpay.client.store import state_path
from machpay.protocol.receipts import SignedReceipt
from tests.gateway.conftest import eventually
from tests.gateway.factories import PRICE, network

ROOT = Path(__file__).parents[2]
KILLS = 3
DAY_ATOMIC = 60 * PRICE
PROCESS = """
import asyncio, sys
from pathlib import Path
from machpay import Budgets, MachPayClient, MachPayConfig
from machpay.protocol.keys import SigningKey
from tests.gateway.factories import network

async def main(key, state, url, day):
    config = MachPayConfig(
        key=SigningKey.load(key), network=network(), state_dir=Path(state), budgets=Budgets(per_day_atomic=int(day))
    )
    async with MachPayClient(config) as client:
        async def caller():
            while True:
                await client.pay_and_call(url)
        await asyncio.gather(*(caller() for _ in range(4)))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_killed_again_and_again_an_agent_keeps_its_totals_and_its_budget(
    key, gateway, upstream, net, make_client, tmp_path, monkeypatch
):
    key.save(tmp_path / "key.json")
    arguments = [str(tmp_path / "key.json"), str(tmp_path), gateway.url + "/paid", str(DAY_ATOMIC)]
    for kill in range(1, KILLS + 1):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROCESS, *arguments, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
        )
        await eventually(lambda wanted=5 * kill: len(upstream.seen) >= wanted, "it pays")
        process.send_signal(signal.SIGKILL)
        await process.wait()

    payer = gateway.payer(key)
    served = await gateway.committed(payer)
    await eventually(lambda: net.charged == served, "everything in flight has ended")
    assert served == len(upstream.seen) * PRICE

    # Whole files: what they say is true, though it may be old.
    def kept() -> list[SignedReceipt]:
        file = ReceiptFile(state_path(tmp_path, key.pubkey, network(), "receipts.jsonl"))
        found = [KeptReceipt.from_line(line) for line in file.lines()]
        assert all(each.is_valid for each in found)
        return [each.signed for each in found]

    assert sum(each.receipt.charged for each in kept()) <= served
    spent = json.loads(state_path(tmp_path, key.pubkey, network(), "spent.json").read_text())
    (authorised,) = (int(amount) for amount in spent["vendors"].values())
    assert served <= authorised <= DAY_ATOMIC

    # The next one goes on, until the day's budget is used up and not a unit further.
    # As if it started when no gateway takes the payments of the killed ones any more.
    monkeypatch.setattr("machpay.client.unheard.CLOCK_SKEW_S", -600)
    client = await make_client(state_dir=tmp_path, budgets=Budgets(per_day_atomic=DAY_ATOMIC))
    await eventually(
        lambda: sum(each.receipt.charged for each in kept()) == served, "every charge has its receipt"
    )
    digests = [each.receipt.digest for each in kept()]
    assert len(digests) == len(set(digests))

    async def spend() -> None:
        for _ in range(2 * DAY_ATOMIC // PRICE):
            assert (await client.pay_and_call(gateway.url + "/paid")).charged == PRICE

    with pytest.raises(BudgetExceededError) as raised:
        await spend()
    assert (raised.value.budget, raised.value.limit_atomic) == ("day", DAY_ATOMIC)
    assert served < await gateway.committed(payer) <= DAY_ATOMIC
