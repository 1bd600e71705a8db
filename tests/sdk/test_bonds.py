"""Bond methods against the real program on the local chain, and a total that only the chain proves."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace

import httpx
import msgspec
import pytest
from aiohttp import web

from devnet.chain import MIN_BOND_ATOMIC
from devnet.offers import OFFERS
from machpay import MachPayClient, MachPayConfig
from machpay.chain import tokens
from machpay.chain.client import ChainClient
from machpay.chain.errors import RpcUnavailable
from machpay.chain.instructions import ChannelSettlement, settle_cumulative
from machpay.client.errors import (
    BondError,
    BondTooSmallError,
    ConfigError,
    DepositUnresolvedError,
    GatewayExposureError,
    InsufficientFundsError,
)
from machpay.protocol.keys import SigningKey
from machpay.protocol.signed_requests import verify_request
from machpay.protocol.snapshots import LiabilityAnswer, Limits, Snapshot
from machpay.protocol.x402 import Correction, correction_json
from tests.gateway.servers import serve
from tests.sdk.model import NETWORK
from tests.sdk.scripted import PRICE, Scripted
from tests.support.chain import LocalChain, module_chain

__all__ = ["module_chain"]

SOL = 1_000_000_000
OFFER = OFFERS[0]


async def a_wallet(local_chain: LocalChain, *, tokens_atomic: int) -> SigningKey:
    """A new key with SOL and test tokens in its wallet, and no bond."""
    key, mint = SigningKey.generate(), local_chain.network.mint
    admin, authority = (local_chain.keys.get(name).keypair() for name in ("admin", "mint-authority"))
    steps = [
        tokens.create_ata_idempotent(payer=admin.pubkey(), owner=key.public, mint=mint),
        tokens.mint_to(
            mint=mint,
            destination=tokens.associated_token_address(key.public, mint),
            authority=authority.pubkey(),
            amount=tokens_atomic,
        ),
    ]
    async with ChainClient(local_chain.rpc_url, local_chain.network) as chain:
        await chain.airdrop(key.public, SOL)
        await chain.send_and_confirm(steps, admin, [authority])
    return key


@contextlib.asynccontextmanager
async def a_relayer(
    key: SigningKey, bonds: list[str], *, liability: str = "0"
) -> AsyncIterator[tuple[str, list[str]]]:
    """Answers `GET /liability/{agent}` with one bond after the other, the last for ever, to the agent's
    signature alone."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        headers = {name.lower(): value for name, value in request.headers.items()}
        assert verify_request("GET", request.path_qs, b"", headers, now=time.time()).key == key.public
        bond = bonds[min(len(asked), len(bonds) - 1)]
        asked.append(request.path_qs)
        snapshot = Snapshot(bond, "0", "0", liability, "0", None, "ACTIVE", Limits(), None, 1)
        return web.Response(body=msgspec.json.encode(LiabilityAnswer(key.pubkey, 0, [], snapshot)))

    app = web.Application()
    app.router.add_get("/liability/{agent}", answer)
    server = await serve(app)
    try:
        yield server.url, asked
    finally:
        await server.stop()


@dataclass
class FlakyRpc:
    """The local chain behind a line that answers 503 to the requests (JSON) that `refuses` names."""

    url: str = ""
    refused: int = 0
    refuses: Callable[[bytes], bool] = field(default=lambda body: False)


@contextlib.asynccontextmanager
async def a_flaky_rpc(local_chain: LocalChain) -> AsyncIterator[FlakyRpc]:
    rpc = FlakyRpc()

    async def forward(request: web.Request) -> web.Response:
        body = await request.read()
        if rpc.refuses(body):
            rpc.refused += 1
            return web.Response(status=503)
        answer = await http.post(
            local_chain.rpc_url, content=body, headers={"Content-Type": "application/json"}
        )
        return web.Response(status=answer.status_code, body=answer.content, content_type="application/json")

    app = web.Application()
    app.router.add_post("/", forward)
    server = await serve(app)
    rpc.url = server.url
    async with httpx.AsyncClient(trust_env=False, timeout=60) as http:
        try:
            yield rpc
        finally:
            await server.stop()


@pytest.fixture
def config(local_chain: LocalChain) -> Callable[[SigningKey], MachPayConfig]:
    return lambda key: MachPayConfig(key=key, network=local_chain.network, rpc_url=local_chain.rpc_url)


async def wallet_balance(local_chain: LocalChain, key: SigningKey) -> int:
    async with ChainClient(local_chain.rpc_url, local_chain.network) as chain:
        return await chain.token_balance(
            tokens.associated_token_address(key.public, local_chain.network.mint)
        )


async def test_a_deposit_moves_tokens_from_the_wallet_to_the_bond(local_chain, config):
    key = await a_wallet(local_chain, tokens_atomic=MIN_BOND_ATOMIC + 500)
    async with MachPayClient(config(key)) as client:
        assert await client.get_bond_balance() == 0
        signature = await client.deposit_bond(MIN_BOND_ATOMIC)
        assert await client.get_bond_balance() == MIN_BOND_ATOMIC
        assert await client.deposit_bond(300) != signature
        assert await client.get_bond_balance() == MIN_BOND_ATOMIC + 300
    assert await wallet_balance(local_chain, key) == 200
    async with ChainClient(local_chain.rpc_url, local_chain.network) as chain:
        account = await chain.agent(key.public)
        (status,) = await chain.status([signature])
    assert account is not None
    assert account.owner == key.public
    assert status is not None
    assert status.err is None


async def test_a_deposit_that_is_final_stands_when_the_chain_goes_away(local_chain, config):
    """An error here would have the agent deposit a second time."""
    key = await a_wallet(local_chain, tokens_atomic=2 * MIN_BOND_ATOMIC)
    async with a_flaky_rpc(local_chain) as rpc, a_relayer(key, ["0", str(MIN_BOND_ATOMIC)]) as (url, asked):
        # From the relayer's first answer on, the chain says nothing for a while.
        rpc.refuses = lambda body: len(asked) >= 1 and rpc.refused < 3
        settings = replace(config(key), rpc_url=rpc.url, relayer_url=url)
        async with MachPayClient(settings) as client:
            assert await client.deposit_bond(MIN_BOND_ATOMIC)
        assert rpc.refused == 3
    assert await wallet_balance(local_chain, key) == MIN_BOND_ATOMIC


async def test_a_deposit_whose_outcome_is_unknown_says_so(local_chain, config, monkeypatch):
    monkeypatch.setattr("machpay.chain.client._PATIENCE_SECONDS", 1)
    key = await a_wallet(local_chain, tokens_atomic=2 * MIN_BOND_ATOMIC)
    async with a_flaky_rpc(local_chain) as rpc:
        sent: list[bytes] = []

        def refuses(body: bytes) -> bool:
            if b"sendTransaction" in body:
                sent.append(body)
            return bool(sent) and b"sendTransaction" not in body

        rpc.refuses = refuses
        async with MachPayClient(replace(config(key), rpc_url=rpc.url)) as client:
            with pytest.raises(DepositUnresolvedError):
                await client.deposit_bond(MIN_BOND_ATOMIC)
    transactions = [msgspec.json.decode(body)["params"][0] for body in sent]
    assert transactions
    assert len(set(transactions)) == 1


async def test_an_owner_that_is_no_key_is_refused_before_anything_is_sent(local_chain, config):
    key = await a_wallet(local_chain, tokens_atomic=MIN_BOND_ATOMIC)
    async with MachPayClient(config(key)) as client:
        with pytest.raises(BondError, match="owner"):
            await client.deposit_bond(MIN_BOND_ATOMIC, owner="x")
    assert await wallet_balance(local_chain, key) == MIN_BOND_ATOMIC


async def test_a_deposit_returns_when_it_is_final_and_the_relayer_counts_it(local_chain, config):
    """The relayer's mirror lags: it says 0 for a while, then what the chain says."""
    key = await a_wallet(local_chain, tokens_atomic=MIN_BOND_ATOMIC)
    answers = ["0", "0", str(MIN_BOND_ATOMIC)]
    async with a_relayer(key, answers) as (url, asked):
        async with MachPayClient(replace(config(key), relayer_url=url)) as client:
            await client.deposit_bond(MIN_BOND_ATOMIC)
        assert asked == [f"/liability/{key.pubkey}"] * 3
    async with ChainClient(local_chain.rpc_url, local_chain.network) as chain:
        account = await chain.agent(key.public, "finalized")
    assert account is not None
    assert account.bond == MIN_BOND_ATOMIC


@pytest.mark.parametrize("relayer", ["http://127.0.0.1:9", "late"])
async def test_a_deposit_stands_although_the_relayer_does_not_count_it(
    local_chain, config, relayer, monkeypatch
):
    monkeypatch.setattr("machpay.client.bonds.COUNTED_WITHIN_S", 0.5)
    key = await a_wallet(local_chain, tokens_atomic=MIN_BOND_ATOMIC)
    async with a_relayer(key, ["0"]) as (url, _asked):
        changed = replace(config(key), relayer_url=url if relayer == "late" else relayer)
        async with MachPayClient(changed) as client:
            await client.deposit_bond(MIN_BOND_ATOMIC)
            assert await client.get_bond_balance() == MIN_BOND_ATOMIC


async def test_the_first_deposit_names_the_owner(local_chain, config):
    key, owner = await a_wallet(local_chain, tokens_atomic=MIN_BOND_ATOMIC), SigningKey.generate()
    async with MachPayClient(config(key)) as client:
        await client.deposit_bond(MIN_BOND_ATOMIC, owner=owner.pubkey)
    async with ChainClient(local_chain.rpc_url, local_chain.network) as chain:
        account = await chain.agent(key.public)
    assert account is not None
    assert account.owner == owner.public


async def test_a_first_deposit_below_the_minimum_is_refused_and_moves_nothing(local_chain, config):
    key = await a_wallet(local_chain, tokens_atomic=MIN_BOND_ATOMIC)
    async with MachPayClient(config(key)) as client:
        with pytest.raises(BondTooSmallError) as raised:
            await client.deposit_bond(MIN_BOND_ATOMIC - 1)
        assert (raised.value.amount, raised.value.minimum) == (MIN_BOND_ATOMIC - 1, MIN_BOND_ATOMIC)
        assert await client.get_bond_balance() == 0
    assert await wallet_balance(local_chain, key) == MIN_BOND_ATOMIC


async def test_a_deposit_above_the_wallet_is_refused_and_moves_nothing(local_chain, config):
    key = await a_wallet(local_chain, tokens_atomic=MIN_BOND_ATOMIC)
    async with MachPayClient(config(key)) as client:
        with pytest.raises(InsufficientFundsError) as raised:
            await client.deposit_bond(MIN_BOND_ATOMIC + 1)
        assert (raised.value.needed, raised.value.held) == (MIN_BOND_ATOMIC + 1, MIN_BOND_ATOMIC)
    assert await wallet_balance(local_chain, key) == MIN_BOND_ATOMIC


async def test_a_wallet_without_a_token_account_holds_nothing(config):
    async with MachPayClient(config(SigningKey.generate())) as client:
        with pytest.raises(InsufficientFundsError) as raised:
            await client.deposit_bond(1)
    assert raised.value.held == 0


@pytest.mark.parametrize("amount", [0, -1])
async def test_a_deposit_must_be_positive(config, amount):
    async with MachPayClient(config(SigningKey.generate())) as client:
        with pytest.raises(BondError, match="positive"):
            await client.deposit_bond(amount)


async def test_without_an_rpc_url_the_bond_methods_say_so():
    async with MachPayClient(MachPayConfig(key=SigningKey.generate(), network=NETWORK)) as client:
        with pytest.raises(ConfigError, match="rpc_url"):
            await client.get_bond_balance()


async def test_an_rpc_server_that_is_away_is_a_chain_error():
    config = MachPayConfig(key=SigningKey.generate(), network=NETWORK, rpc_url="http://127.0.0.1:9")
    async with MachPayClient(config) as client:
        with pytest.raises(RpcUnavailable):
            await client.get_bond_balance()


async def test_a_total_that_the_chain_has_settled_is_followed_without_a_voucher(local_chain, config):
    """A gateway that lost its log and has no voucher to show: the watermark on chain is proof enough, one
    unit more is not."""
    settled = 70 * PRICE
    agent = await a_wallet(local_chain, tokens_atomic=10 * MIN_BOND_ATOMIC)
    async with MachPayClient(config(agent)) as client:
        await client.deposit_bond(10 * MIN_BOND_ATOMIC)
    payer = local_chain.payer(agent, OFFER)
    voucher = payer.pay(settled).voucher
    vendor, relayer = local_chain.vendor(OFFER), local_chain.keys.get("relayer").keypair()
    steps = settle_cumulative(
        local_chain.network,
        relayer=relayer.pubkey(),
        vendor=vendor,
        payout=tokens.associated_token_address(vendor, local_chain.network.mint),
        channels=[ChannelSettlement(agent.public, payer.gateway.public, voucher, settled, create=True)],
    )
    async with ChainClient(local_chain.rpc_url, local_chain.network) as chain:
        await chain.send_and_confirm(steps, relayer)

    scripted = Scripted(key=local_chain.gateway(OFFER), network=local_chain.network, served=settled)
    await scripted.start()
    try:
        scripted.correct = lambda arrived: correction_json(Correction(settled + 1, None))
        async with MachPayClient(config(agent)) as client:
            with pytest.raises(GatewayExposureError):
                await client.pay_and_call(scripted.url + "/x")
        assert scripted.signed == PRICE
        scripted.correct = lambda arrived: correction_json(Correction(settled, None))
        async with MachPayClient(config(agent)) as client:
            payment = (await client.pay_and_call(scripted.url + "/x")).payment
        assert payment is not None
        assert (payment.attempts, payment.charged) == (2, PRICE)
        assert scripted.signed <= settled + 2 * PRICE
    finally:
        await scripted.stop()
