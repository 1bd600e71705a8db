"""The SDK co-signs what recon proposes, over the real relayer, by itself."""

import asyncio
from pathlib import Path

from apps.payments.models import Aggregation, Settlement
from machpay import MachPayClient, MachPayConfig
from tests.gateway.conftest import eventually
from tests.payments.relayer_client import running_relayer
from tests.settlement.conftest import Recon
from tests.settlement.test_aggregation import pair, proposal
from tests.support.chain import Payer

__all__ = ["pair"]


def test_the_client_co_signs_and_both_vendors_are_settled(
    recon: Recon, pair: list[Payer], tmp_path: Path
) -> None:
    proposal(recon, pair, 300, 700)

    async def work(relayer_url: str) -> None:
        config = MachPayConfig(
            key=pair[0].agent, network=recon.chain.network, relayer_url=relayer_url, cosign_s=0.1
        )
        async with MachPayClient(config) as client:
            cosigner = client._cosigner
            assert cosigner is not None
            await eventually(lambda: cosigner.signed == 1, "the proposal is signed")

    with running_relayer(recon.chain, tmp_path) as server:
        asyncio.run(work(server.url))
    assert Aggregation.objects.get().state == "SIGNED"
    (stored,) = recon.settle()
    recon.rest()
    row = Settlement.objects.get(id=stored)
    assert (row.kind, row.state, row.paid_atomic) == ("AGGREGATE", "FINALIZED", 1_000)
    assert recon.liability(pair[0].agent) == 0
