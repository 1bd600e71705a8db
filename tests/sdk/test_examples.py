"""The example of the README is the file in examples/, and it pays a gateway."""

import asyncio
import json
import sys
from pathlib import Path

from machpay.protocol.keys import SigningKey
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


async def test_the_example_pays(start_gateway, upstream, tmp_path):
    gateway = await start_gateway(routes=EMBED)
    key, net = SigningKey.generate(), network()
    key.save(tmp_path / "var" / "agent.json")
    demo = {
        "program_id": str(net.program_id),
        "mint": str(net.mint),
        "domain": str(net.domain),
        "gateways": [{"gateway": gateway.settings.key.pubkey, "url": gateway.url}],
        "agents": [{"agent": key.pubkey, "keypair_file": "agent.json"}],
    }
    (tmp_path / "var" / "demo.json").write_text(json.dumps(demo))
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE), cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert (process.returncode, printed) == (0, b"200 paid 1000 atomic units\n")
    assert [target for _, target, _, _ in upstream.seen] == ["/embed?text=hello"]
