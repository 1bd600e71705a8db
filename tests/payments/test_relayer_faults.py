"""The relayer killed, without its chain, and on a database that belongs to another network."""

import os
import signal
import threading
import time
from pathlib import Path

import httpx
import pytest

from apps.ledger import chart
from apps.ledger.selectors import balance
from apps.payments.models import Channel, PaymentIntent
from apps.payments.services import gateways, network
from devnet.offers import LEXICON
from devnet.processes import ProcessFailed
from devnet.services.ports import free_port
from machpay.chain.accounts import GatewayAccount
from machpay.protocol.keys import SigningKey
from tests.payments.factories import NETWORK
from tests.payments.relayer_client import RelayerClient, running_relayer
from tests.support.chain import LocalChain

pytestmark = pytest.mark.django_db(transaction=True)


def test_kill_minus_9_while_batches_arrive_loses_and_doubles_nothing(transactional_db, local_chain, tmp_path):
    local_chain.wait_until_final()
    key = local_chain.gateway(LEXICON)
    payers = [local_chain.payer(SigningKey.generate(), LEXICON) for _ in range(4)]
    waiting = [[payer.pay(10) for payer in payers] for _ in range(40)]
    acknowledged: set[str] = set()
    kills = 0

    while waiting:
        with running_relayer(local_chain, tmp_path) as server, RelayerClient(server.url, key) as client:
            killer = threading.Timer(0.25, os.kill, (server.process.pid, signal.SIGKILL))
            # Three kills are enough to hit different moments; then the rest is delivered in peace.
            if kills < 3:
                killer.start()
            try:
                while waiting:
                    answer = client.deliver(*waiting[0])
                    assert answer["rejected"] == 0
                    acknowledged |= {result["digest"] for result in answer["results"]}
                    # The last batch arrives again and again until the last kill.
                    if kills == 3 or len(waiting) > 1:
                        waiting.pop(0)
                    time.sleep(0.02 if kills < 3 else 0)
            except httpx.TransportError:
                kills += 1
            finally:
                killer.cancel()

    assert kills == 3
    assert len(acknowledged) == 160
    assert {
        bytes(digest).hex() for digest in PaymentIntent.objects.values_list("digest", flat=True)
    } == acknowledged
    assert PaymentIntent.objects.count() == 160
    assert list(Channel.objects.values_list("charged_total_atomic", flat=True)) == [400] * 4
    vendor = str(local_chain.vendor(LEXICON))
    assert balance(chart.unsettled(vendor, key.pubkey, str(local_chain.network.mint))) == 1600


def test_without_the_chain_payments_are_taken_and_unknown_agents_wait(
    transactional_db, local_chain, tmp_path
):
    key = local_chain.gateway(LEXICON)
    network.bind(local_chain.network)
    gateways.remember([GatewayAccount(255, False, key.public, local_chain.vendor(LEXICON), 0, 0)])
    payer = local_chain.payer(SigningKey.generate(), LEXICON)
    nowhere = f"http://127.0.0.1:{free_port()}"

    with (
        running_relayer(local_chain, tmp_path, SOLANA_RPC_URL=nowhere) as server,
        RelayerClient(server.url, key, patience_s=0) as client,
    ):
        assert client.deliver(payer.pay(10))["accepted"] == 1
        unknown = client.get(f"/liability/{SigningKey.generate().pubkey}")
        assert (unknown.status_code, unknown.json()["code"]) == (503, "chain_unavailable")
        assert unknown.headers["retry-after"] == "1"
        known = client.get(f"/liability/{payer.agent.pubkey}").json()
        assert (known["snapshot"]["bond"], known["snapshot"]["liability"]) == ("0", "10")


def test_a_database_of_another_genesis_refuses_to_start(transactional_db, local_chain, tmp_path):
    network.bind(NETWORK)

    with (
        pytest.raises(ProcessFailed, match="this database belongs to another network"),
        running_relayer(local_chain, tmp_path),
    ):
        pytest.fail("the relayer started")


def run_until_it_ends(chain: LocalChain, folder: Path) -> None:
    """A relayer on another cluster's database starts, and ends once the cluster has answered: maybe before it was
    seen healthy."""
    with running_relayer(chain, folder) as server:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            server.process.check()
            time.sleep(0.05)


def test_a_cluster_of_another_genesis_ends_the_process(transactional_db, local_chain, tmp_path):
    other = type(NETWORK)(local_chain.network.program_id, local_chain.network.mint, NETWORK.domain)
    network.bind(other)

    with pytest.raises(ProcessFailed, match="network_mismatch"):
        run_until_it_ends(local_chain, tmp_path)
