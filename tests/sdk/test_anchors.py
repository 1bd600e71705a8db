"""A payment's place in an anchored batch, checked against the real program's Batch account."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from machpay import MachPayClient, MachPayConfig, cli
from machpay.chain.client import ChainClient
from machpay.chain.instructions import commit_batch
from machpay.client.errors import ConfigError, NotAnchoredError, ProofUnavailableError
from machpay.client.receipts import ReceiptFile
from machpay.client.store import state_path
from machpay.protocol.keys import SigningKey
from machpay.protocol.merkle import inclusion_path, merkle_root
from machpay.protocol.proofs import AnchoredBatch, BatchLeaf, LeafPlace, ProofAnswer
from machpay.protocol.receipts import Receipt, SignedReceipt
from machpay.sync import MachPayClient as BlockingClient
from tests.gateway.servers import serve
from tests.support.chain import LocalChain, module_chain

__all__ = ["module_chain"]

GATEWAY = SigningKey(b"\x31" * 32)
PLACE = 2


class Anchored:
    """Five payments in one batch, committed on the chain; `raw` is the proof for the third."""

    def __init__(self, network: Any, sequence: int, signature: str) -> None:
        leaf, path = LEAVES[PLACE], inclusion_path(HASHES, PLACE)
        self.digest = leaf.digest
        receipt = Receipt(leaf.digest, 200, leaf.charged, leaf.served_total, 1_795_255_200)
        self.receipt: SignedReceipt = receipt.sign(GATEWAY)
        self.answer = ProofAnswer(
            digest=leaf.digest.hex(),
            leaf=LeafPlace(PLACE, str(leaf.charged), str(leaf.served_total)),
            leaf_count=len(LEAVES),
            siblings=[sibling.hex() for sibling in path],
            root=merkle_root(HASHES).hex(),
            batch=AnchoredBatch(sequence, str(network.batch(sequence)), signature, 1, "2026-11-21T00:00:00Z"),
        )

    @property
    def raw(self) -> bytes:
        return msgspec.json.encode(self.answer)


LEAVES = [BatchLeaf(bytes([number]) * 32, 1_000 * number, 5_000 * number) for number in range(1, 6)]
HASHES = [leaf.hash_at(index) for index, leaf in enumerate(LEAVES)]


@pytest.fixture(scope="module")
def anchored(local_chain: LocalChain) -> Anchored:
    relayer = local_chain.keys.get("relayer").keypair()

    async def commit(chain: ChainClient) -> tuple[int, str]:
        bond = await chain.bond()
        assert bond is not None
        step = commit_batch(
            local_chain.network,
            relayer=relayer.pubkey(),
            sequence=bond.batch_sequence,
            root=merkle_root(HASHES),
            leaf_count=len(LEAVES),
            total=sum(leaf.charged for leaf in LEAVES),
        )
        return bond.batch_sequence, await chain.send_and_confirm([step], relayer, commitment="finalized")

    return Anchored(local_chain.network, *local_chain.call(commit))


def a_config(local_chain: LocalChain, **settings: Any) -> MachPayConfig:
    fields = {"network": local_chain.network, "rpc_url": local_chain.rpc_url, **settings}
    return MachPayConfig(key=SigningKey.generate(), **fields)


async def test_a_payment_in_the_batch_is_proven_from_the_chain_alone(local_chain, anchored, tmp_path: Path):
    file = tmp_path / "proof.json"
    file.write_bytes(anchored.raw)
    async with MachPayClient(a_config(local_chain)) as client:
        assert await client.verify_inclusion(anchored.digest, anchored.raw)
        assert await client.verify_inclusion(anchored.receipt, file)


async def test_whatever_the_chain_does_not_say_is_not_proven(local_chain, anchored):
    answer, digest = anchored.answer, anchored.digest
    leaf = LEAVES[PLACE]
    overcharged = Receipt(digest, 200, leaf.charged - 1, leaf.served_total, 1_795_255_200).sign(GATEWAY)
    changed = [
        (digest, msgspec.structs.replace(answer, siblings=answer.siblings[::-1])),
        (digest, msgspec.structs.replace(answer, leaf=LeafPlace(PLACE, "1", answer.leaf.served_total))),
        (
            digest,
            msgspec.structs.replace(answer, leaf=LeafPlace(1, *msgspec.structs.astuple(answer.leaf)[1:])),
        ),
        (digest, msgspec.structs.replace(answer, batch=msgspec.structs.replace(answer.batch, seq=10**6))),
        (LEAVES[0].digest, answer),
        (overcharged, answer),
    ]
    async with MachPayClient(a_config(local_chain)) as client:
        for payment, proof in changed:
            assert not await client.verify_inclusion(payment, msgspec.json.encode(proof))
        # A root that hangs together with its path, but is not the chain's.
        hashes = [leaf.hash_at(index) for index, leaf in enumerate(LEAVES[:3])]
        forged = msgspec.structs.replace(
            answer,
            leaf_count=3,
            siblings=[sibling.hex() for sibling in inclusion_path(hashes, PLACE)],
            root=merkle_root(hashes).hex(),
        )
        assert not await client.verify_inclusion(digest, msgspec.json.encode(forged))


@contextlib.asynccontextmanager
async def an_api(answers: dict[str, tuple[int, bytes]]) -> AsyncIterator[str]:
    async def proof(request: web.Request) -> web.Response:
        status, body = answers.get(request.match_info["digest"], (404, b"unknown_payment"))
        return web.Response(status=status, body=body)

    app = web.Application()
    app.router.add_get("/v1/payments/{digest}/proof", proof)
    served = await serve(app)
    try:
        yield served.url
    finally:
        await served.stop()


async def test_the_proof_is_fetched_when_none_is_given(local_chain, anchored):
    waiting = b"\x77" * 32
    answers = {
        anchored.digest.hex(): (200, anchored.raw),
        waiting.hex(): (409, b""),
    }
    async with an_api(answers) as url, MachPayClient(a_config(local_chain, api_url=url)) as client:
        assert await client.verify_inclusion(anchored.receipt)
        with pytest.raises(NotAnchoredError):
            await client.verify_inclusion(waiting)
        with pytest.raises(ProofUnavailableError, match="404"):
            await client.verify_inclusion(b"\x78" * 32)


async def test_a_payment_made_just_now_may_not_have_reached_the_network_yet(local_chain):
    async with an_api({}) as url, MachPayClient(a_config(local_chain, api_url=url)) as client:
        fresh, old = (
            Receipt(b"\x78" * 32, 200, 5, 5, int(time.time()) - age_s).sign(GATEWAY) for age_s in (1, 86_400)
        )
        with pytest.raises(NotAnchoredError):
            await client.verify_inclusion(fresh)
        with pytest.raises(ProofUnavailableError, match="404"):
            await client.verify_inclusion(old)


async def test_what_cannot_be_checked_is_said(local_chain, anchored, tmp_path: Path):
    async with MachPayClient(a_config(local_chain)) as client:
        with pytest.raises(ConfigError, match="api_url"):
            await client.verify_inclusion(anchored.digest)
        for proof in (b"{}", "nonsense", tmp_path / "absent.json"):
            with pytest.raises(ProofUnavailableError):
                await client.verify_inclusion(anchored.digest, proof)
    async with MachPayClient(a_config(local_chain, rpc_url=None)) as client:
        with pytest.raises(ConfigError, match="rpc_url"):
            await client.verify_inclusion(anchored.digest, anchored.raw)


def test_the_blocking_client_verifies_too(local_chain, anchored):
    with BlockingClient(a_config(local_chain)) as client:
        assert client.verify_inclusion(anchored.receipt, anchored.raw)


async def test_the_command_line_proves_every_receipt(
    local_chain, anchored, tmp_path: Path, capsys, monkeypatch
):
    monkeypatch.delenv("MACHPAY_API_URL", raising=False)
    key, network = SigningKey.generate(), local_chain.network
    key.save(tmp_path / "key.json")
    kept = ReceiptFile(state_path(tmp_path, key.pubkey, network, "receipts.jsonl"))
    waiting = Receipt(b"\x77" * 32, 200, 5, 5, 1_795_255_200).sign(GATEWAY)
    void = Receipt(b"\x79" * 32, 503, 0, 5, 1_795_255_200).sign(GATEWAY)
    for receipt in (anchored.receipt, waiting, void):
        kept.add(GATEWAY.public, receipt)
    answers = {
        anchored.digest.hex(): (200, anchored.raw),
        waiting.receipt.digest.hex(): (409, b""),
    }
    async with an_api(answers) as url:
        document = {
            "program_id": str(network.program_id),
            "mint": str(network.mint),
            "domain": str(network.domain),
            "rpc_url": local_chain.rpc_url,
            "api_url": url,
        }
        (tmp_path / "network.json").write_text(json.dumps(document))
        own = ["--network", str(tmp_path / "network.json"), "--key", str(tmp_path / "key.json")]
        arguments = ["--json", "receipts", "prove", *own, "--state-dir", str(tmp_path)]
        assert await asyncio.to_thread(cli.main, arguments) == cli.OK
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(each["payment"], each["state"]) for each in told] == [
            (anchored.digest.hex(), "anchored"),
            (waiting.receipt.digest.hex(), "waiting"),
        ]
        # A receipt that says something else than the chain.
        kept.add(GATEWAY.public, Receipt(anchored.digest, 200, 1, 1, 1_795_255_200).sign(GATEWAY))
        assert await asyncio.to_thread(cli.main, arguments) == cli.FAILED
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["state"] == "contradicted"
