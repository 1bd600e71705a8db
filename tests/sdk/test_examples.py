"""The example of the README is the file in examples/, and it pays a gateway."""

import asyncio
import json
import sys
from pathlib import Path

from machpay.protocol.keys import SigningKey
from tests.gateway.conftest import RunningGateway, eventually
from tests.gateway.factories import network

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "pay_the_demo.py"
EMBED = """
[[routes]]
method = "GET"
path = "/embed"
price_atomic = 1000
"""


def test_the_readme_shows_the_example_word_for_word():
    assert f"```python\n{EXAMPLE.read_text()}```" in (ROOT / "README.md").read_text()


def describe(folder: Path, gateway: RunningGateway, **more: str) -> Path:
    """The demo's description of a network with this gateway and one agent."""
    key, net = SigningKey.generate(), network()
    key.save(folder / "var" / "agent.json")
    demo = {
        "program_id": str(net.program_id),
        "mint": str(net.mint),
        "domain": str(net.domain),
        "gateways": [{"gateway": gateway.settings.key.pubkey, "url": gateway.url}],
        "agents": [{"agent": key.pubkey, "keypair_file": "agent.json"}],
        **more,
    }
    path = folder / "var" / "demo.json"
    path.write_text(json.dumps(demo))
    return path


async def test_the_example_pays(start_gateway, upstream, tmp_path):
    gateway = await start_gateway(routes=EMBED)
    describe(tmp_path, gateway)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE), cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert (process.returncode, printed) == (0, b"200 paid 1000 atomic units\n")
    assert [target for _, target, _, _ in upstream.seen] == ["/embed?text=hello"]


async def test_the_agent_buys_what_its_rules_allow_and_checks_every_receipt(gateway, upstream, net, tmp_path):
    demo = describe(tmp_path, gateway, relayer_url=net.url)
    net.default.bond = 900_000
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(ROOT / "examples" / "agent" / "agent.py"), str(demo)),
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    lines = printed.decode().splitlines()
    assert process.returncode == 0
    url, probe, query = gateway.url, 10**12, "text=micropayments&a=a+cat&b=a+dog"
    assert "  only 900000 left: time for another deposit" in lines
    bought = [line for line in lines if not line.startswith("  only")]
    assert bought[:3] == [
        f"{url}/paid 200, cost 1000",
        f"  {url}/dear?{query} wants 5000: approved",
        f"{url}/dear 200, cost 5000",
    ]
    # A price beyond the budget of a call is never signed.
    assert bought[3] == f"  {url}/probe?{query} wants {probe}: approved"
    assert bought[4].startswith(f"{url}/probe not allowed: the call budget of 10000 has 10000 left")
    assert bought[5] == "2 receipts kept, 6000 atomic units proven"
    assert [target.partition("?")[0] for _, target, _, _ in upstream.seen] == ["/paid", "/dear"]
    await eventually(lambda: net.charged == 6_000, "the relayer knows both charges")
