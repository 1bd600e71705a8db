"""ChainClient against the local chain as a process: the same calls that go to a real cluster."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from solders.compute_budget import set_compute_unit_price
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import CreateAccountParams, create_account
from solders.transaction import VersionedTransaction

from machpay.chain import instructions as build
from machpay.chain import tokens
from machpay.chain.accounts import GLOBAL_BOND_LENGTH
from machpay.chain.client import ChainClient
from machpay.chain.errors import (
    ConfirmationTimeout,
    ProgramError,
    RpcUnavailable,
    TransactionFailed,
    TransactionRejected,
)
from machpay.chain.network import Network
from machpay.chain.transactions import SignedTransaction
from machpay.protocol.intents import Voucher, voucher_message
from tests.localnet.conftest import ChainProcess

ROOT = Path(__file__).resolve().parents[2]
USDC = 1_000_000
SOL = 1_000_000_000


class Cluster:
    """A chain with the program, and the keys that rule it."""

    def __init__(self, folder: Path) -> None:
        self.admin, self.program, self.mint, self.relayer = Keypair(), Keypair(), Keypair(), Keypair()
        keypair = folder / "program.json"
        keypair.write_text(json.dumps(list(bytes(self.program))))
        self.process = ChainProcess(
            folder / "state",
            *("--program", str(ROOT / "contracts" / "artifacts" / "machpay.so")),
            *("--program-id-keypair", str(keypair), "--upgrade-authority", str(self.admin.pubkey())),
            # A block hash lives for 150 slots: long enough between signing and sending on a busy machine.
            *("--slot-ms", "50", "--finalized-lag", "4", "--allow-faults"),
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    asyncio.run(_initialize(cluster))
    yield cluster
    cluster.process.close()


async def _initialize(cluster: Cluster) -> None:
    async with ChainClient(cluster.process.url) as chain:
        network = Network(cluster.program.pubkey(), cluster.mint.pubkey(), await chain.genesis_hash())
        admin = cluster.admin
        for key in (admin, cluster.relayer):
            await chain.airdrop(key.pubkey(), 10 * SOL)
        mint = tokens.create_mint(
            payer=admin.pubkey(),
            mint=network.mint,
            authority=admin.pubkey(),
            decimals=6,
            lamports=await chain.rent(tokens.MINT_LENGTH),
        )
        config = build.BondConfig(admin.pubkey(), cluster.relayer.pubkey(), admin.pubkey(), min_bond=USDC)
        bond = build.initialize_bond(
            network, payer=admin.pubkey(), upgrade_authority=admin.pubkey(), config=config
        )
        await chain.send_and_confirm([*mint, bond], admin, [cluster.mint])


@pytest.fixture
async def chain(cluster: Cluster) -> AsyncIterator[ChainClient]:
    async with ChainClient(cluster.process.url) as client:
        genesis = await client.genesis_hash()
        client.network = Network(cluster.program.pubkey(), cluster.mint.pubkey(), genesis)
        yield client


async def _bonded(chain: ChainClient, cluster: Cluster, amount: int) -> Keypair:
    """An agent with a finalised bond of `amount`."""
    agent, admin = Keypair(), cluster.admin
    assert chain.network is not None
    wallet = tokens.associated_token_address(agent.pubkey(), chain.network.mint)
    steps = [
        tokens.create_ata_idempotent(payer=admin.pubkey(), owner=agent.pubkey(), mint=chain.network.mint),
        tokens.mint_to(mint=chain.network.mint, destination=wallet, authority=admin.pubkey(), amount=amount),
        build.deposit_bond(
            chain.network,
            agent=agent.pubkey(),
            source=wallet,
            amount=amount,
            owner=agent.pubkey(),
            payer=admin.pubkey(),
        ),
    ]
    await chain.send_and_confirm(steps, admin, [agent], "finalized")
    return agent


async def test_what_does_not_exist_reads_as_none_or_zero(chain: ChainClient) -> None:
    nobody = Keypair().pubkey()
    assert await chain.agent(nobody) is None
    assert await chain.vendor(nobody) is None
    assert await chain.gateway(nobody) is None
    assert await chain.channel(nobody, nobody) is None
    assert await chain.account(nobody) is None
    assert await chain.exists(nobody) is False
    assert await chain.lamports(nobody) == 0
    assert await chain.token_balance(nobody) == 0


async def test_lamports_at_an_address_are_no_account_of_the_program(chain: ChainClient) -> None:
    nobody = Keypair().pubkey()
    assert chain.network is not None
    await chain.airdrop(chain.network.agent_account(nobody), SOL)
    assert await chain.agent(nobody) is None


async def test_a_client_without_a_network_says_so(cluster: Cluster) -> None:
    async with ChainClient(cluster.process.url) as client:
        with pytest.raises(ValueError, match="without a network"):
            await client.bond()


async def test_a_payment_from_deposit_to_settlement_is_seen_in_one_snapshot(
    chain: ChainClient, cluster: Cluster
) -> None:
    network, admin, vendor, gateway = chain.network, cluster.admin, Keypair(), Keypair()
    assert network is not None
    agent = await _bonded(chain, cluster, 2 * USDC)
    payout = tokens.associated_token_address(vendor.pubkey(), network.mint)
    steps = [
        tokens.create_ata_idempotent(payer=admin.pubkey(), owner=vendor.pubkey(), mint=network.mint),
        build.register_vendor(
            network, authority=vendor.pubkey(), payout=payout, price=5, payer=admin.pubkey()
        ),
        build.register_gateway(
            network, gateway=gateway.pubkey(), authority=vendor.pubkey(), payer=admin.pubkey()
        ),
    ]
    await chain.send_and_confirm(steps, admin, [vendor, gateway])
    address = network.channel(agent.pubkey(), gateway.pubkey())
    message = voucher_message(address, 700, bytes(16))
    item = build.ChannelSettlement(
        agent.pubkey(),
        gateway.pubkey(),
        Voucher(address, 700, bytes(16), bytes(agent.sign_message(message))),
        up_to=700,
        create=True,
    )
    settle = build.settle_cumulative(
        network, relayer=cluster.relayer.pubkey(), vendor=vendor.pubkey(), payout=payout, channels=[item]
    )
    await chain.send_and_confirm(settle, cluster.relayer, commitment="finalized")

    snapshot = await chain.program_accounts("finalized")
    assert snapshot.slot <= await chain.slot("finalized")
    assert snapshot.bond == await chain.bond("finalized")
    assert snapshot.agents[agent.pubkey()] == await chain.agent(agent.pubkey(), "finalized")
    assert snapshot.agents[agent.pubkey()].bond == 2 * USDC - 700
    assert snapshot.channels[address].settled == 700
    assert snapshot.channels[address] == await chain.channel(agent.pubkey(), gateway.pubkey())
    assert snapshot.vendors[vendor.pubkey()].payout == payout
    assert snapshot.gateways[gateway.pubkey()].vendor == vendor.pubkey()
    assert await chain.token_balance(payout, "finalized") == 700
    total = sum(account.bond for account in snapshot.agents.values())
    assert await chain.token_balance(network.vault(), "finalized") == total


async def test_a_snapshot_leaves_out_what_belongs_to_another_mint(
    chain: ChainClient, cluster: Cluster
) -> None:
    agent = await _bonded(chain, cluster, USDC)
    assert chain.network is not None
    other = Network(chain.network.program_id, Keypair().pubkey(), chain.network.domain)
    assert agent.pubkey() in (await chain.program_accounts()).agents
    chain.network = other
    snapshot = await chain.program_accounts()
    assert (snapshot.bond, snapshot.agents, snapshot.channels, snapshot.vendors) == (None, {}, {}, {})


@pytest.mark.parametrize("length", [0, 5, GLOBAL_BOND_LENGTH, 165])
async def test_what_strangers_create_under_the_program_is_passed_over(
    chain: ChainClient, cluster: Cluster, length: int
) -> None:
    """Anybody may give the program an account, all zeros. It must not blind those who list the program's."""
    assert chain.network is not None
    junk = Keypair()
    params = CreateAccountParams(
        from_pubkey=cluster.admin.pubkey(),
        to_pubkey=junk.pubkey(),
        lamports=await chain.rent(length),
        space=length,
        owner=chain.network.program_id,
    )
    await chain.send_and_confirm([create_account(params)], cluster.admin, [junk], "finalized")
    snapshot = await chain.program_accounts()
    assert snapshot.bond == await chain.bond("finalized")
    assert await chain.mints_of(chain.network.program_id) == [chain.network.mint]


async def test_finalised_reads_lag_behind_confirmed_ones(chain: ChainClient) -> None:
    assert await chain.slot("finalized") < await chain.slot("processed")
    assert await chain.block_height("finalized") <= await chain.block_height("confirmed")


async def test_signed_bytes_are_sent_again_without_harm(chain: ChainClient, cluster: Cluster) -> None:
    admin = cluster.admin
    assert chain.network is not None
    wallet = tokens.associated_token_address(admin.pubkey(), chain.network.mint)
    steps = [
        tokens.create_ata_idempotent(payer=admin.pubkey(), owner=admin.pubkey(), mint=chain.network.mint),
        tokens.mint_to(mint=chain.network.mint, destination=wallet, authority=admin.pubkey(), amount=9),
    ]
    signed = await chain.sign(steps, admin)
    assert await chain.status([signed.signature]) == [None]
    assert await chain.send(signed.raw) == signed.signature
    assert await chain.send(signed.raw) == signed.signature
    status = await chain.confirm(signed.signature, "finalized")
    assert await chain.send(signed.raw) == signed.signature
    assert (status.confirmation, status.err) == ("finalized", None)
    assert await chain.token_balance(wallet, "finalized") == 9
    assert signed.last_valid_block_height > await chain.block_height("finalized")


async def test_a_refusal_of_the_program_comes_back_by_name(chain: ChainClient, cluster: Cluster) -> None:
    admin = cluster.admin
    assert chain.network is not None
    config = build.BondConfig(admin.pubkey(), admin.pubkey(), admin.pubkey(), min_bond=1)
    again = build.initialize_bond(
        chain.network, payer=admin.pubkey(), upgrade_authority=admin.pubkey(), config=config
    )
    with pytest.raises(ProgramError) as caught:
        await chain.send_and_confirm([again], admin)
    assert (caught.value.code, caught.value.name) == (0x10B, "AlreadyInitialized")
    assert any("MachPay: AlreadyInitialized" in line for line in caught.value.logs)


async def test_a_refusal_of_another_program_is_a_plain_failure(chain: ChainClient, cluster: Cluster) -> None:
    admin, nobody = cluster.admin.pubkey(), Keypair().pubkey()
    signed = await chain.sign(
        [tokens.transfer(source=nobody, destination=nobody, authority=admin, amount=1)], cluster.admin
    )
    with pytest.raises(TransactionFailed) as caught:
        await chain.send(signed.raw)
    assert not isinstance(caught.value, ProgramError)
    assert await chain.status([signed.signature]) == [None]


async def test_a_payer_without_lamports_is_rejected(chain: ChainClient) -> None:
    poor = Keypair()
    signed = await chain.sign(
        [tokens.create_ata_idempotent(payer=poor.pubkey(), owner=poor.pubkey(), mint=Pubkey.default())], poor
    )
    with pytest.raises(TransactionRejected):
        await chain.send(signed.raw)


async def test_an_unknown_signature_runs_into_the_time_limit(chain: ChainClient) -> None:
    unknown = str(Keypair().sign_message(b"never sent"))
    with pytest.raises(ConfirmationTimeout):
        await chain.confirm(unknown, timeout_seconds=0.1)


async def test_an_absent_server_is_unavailable_for_reads_and_sends(cluster: Cluster) -> None:
    async with ChainClient(cluster.process.url) as chain:
        signed = await chain.sign([], cluster.admin)
    async with ChainClient("http://127.0.0.1:9", timeout_seconds=1) as chain:
        with pytest.raises(RpcUnavailable):
            await chain.slot()
        with pytest.raises(RpcUnavailable):
            await chain.send(signed.raw)


async def test_a_priority_fee_is_offered_when_recent_blocks_took_one(
    chain: ChainClient, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of the local chain take none, so the answer of a busy cluster is put in its place."""
    step = tokens.create_ata_idempotent(
        payer=cluster.admin.pubkey(), owner=Keypair().pubkey(), mint=cluster.mint.pubkey()
    )
    assert await chain.priority_price([cluster.mint.pubkey()], least=5, most=100) == 5
    async with ChainClient(cluster.process.url, chain.network, priority_price_max=100) as offering:
        assert len(_instructions(await offering.sign([step], cluster.admin))) == 1

        async def busy(_accounts: object, *, most: int) -> int:
            return min(70, most)

        monkeypatch.setattr(offering, "priority_price", busy)
        signed = await offering.sign([step], cluster.admin)
        assert _instructions(signed)[0] == bytes(set_compute_unit_price(70).data)
        await offering.send(signed.raw)
        await offering.confirm(signed.signature)


def _instructions(signed: SignedTransaction) -> list[bytes]:
    message = VersionedTransaction.from_bytes(signed.raw).message
    return [bytes(each.data) for each in message.instructions]
