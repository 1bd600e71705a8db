"""A stock Anchor client, in an environment of its own, uses the program from the IDL alone."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from contracts.idl.document import document
from machpay.chain import instructions as build
from machpay.chain import tokens
from machpay.chain.client import ChainClient
from machpay.chain.events import Deposited
from machpay.chain.instructions import ConfigChange
from tests.anchor.install import HERE, client_folder
from tests.support import node
from tests.support.chain import LocalChain, module_chain  # noqa: F401

SOL = 1_000_000_000
USDC = 1_000_000


@pytest.fixture(scope="module")
def client() -> Path:
    folder = client_folder()
    # Node looks for packages beside the script.
    shutil.copy(HERE / "client.mjs", folder / "client.mjs")
    return folder


def ask(client: Path, request: dict[str, Any]) -> Any:
    return node.ask(client / "client.mjs", request)


@pytest.mark.timeout(600)
def test_an_anchor_client_deposits_a_bond(client: Path, local_chain: LocalChain) -> None:
    network, agent = local_chain.network, Keypair()
    source = local_chain.call(lambda chain: _funded(chain, local_chain, agent, 5 * USDC))
    answer = ask(
        client,
        {
            "command": "deposit",
            "idl": document(str(network.program_id)),
            "rpcUrl": local_chain.rpc_url,
            "agent": list(bytes(agent)),
            "globalBond": str(network.bond()),
            "source": str(source),
            "amount": str(5 * USDC),
        },
    )

    key = str(agent.pubkey())
    account = local_chain.call(lambda chain: chain.agent(agent.pubkey()))
    assert account is not None
    assert (account.bond, account.owner, account.deposited_total) == (5 * USDC, agent.pubkey(), 5 * USDC)
    read = answer["account"]
    assert (read["agent"], read["owner"], read["mint"]) == (key, key, str(network.mint))
    assert (read["bond"], read["depositedTotal"], read["slashed"]) == (str(5 * USDC), str(5 * USDC), 0)

    (recorded,) = local_chain.call(lambda chain: chain.events(answer["signature"])) or []
    mine = agent.pubkey()
    assert recorded.event == Deposited(network.mint, mine, mine, mine, 5 * USDC, 5 * USDC)
    assert answer["event"] == {
        "name": "deposited",
        "data": {
            "mint": str(network.mint),
            "agent": key,
            "owner": key,
            "authority": key,
            "amount": str(5 * USDC),
            "bond": str(5 * USDC),
        },
    }


@pytest.mark.timeout(600)
def test_an_anchor_client_encodes_arguments_as_our_builders_do(client: Path, local_chain: LocalChain) -> None:
    network = local_chain.network
    keys = [Pubkey(bytes([i + 1] * 32)) for i in range(4)]
    domain = Pubkey(bytes(network.domain))
    config = build.BondConfig(keys[0], keys[1], keys[2], 2**64 - 1, 120, 60, 2**63, 9, allow_list=True)
    change = ConfigChange(keys[0], None, keys[2], None, 90, None, 2**64 - 1, 65_535, True, None)
    configured: dict[str, Any] = {
        "admin": str(keys[0]),
        "relayer": str(keys[1]),
        "treasury": str(keys[2]),
        "domain": str(domain),
        "minBond": str(2**64 - 1),
        "timelock": "120",
        "claimDelay": "60",
        "agentBondCap": str(2**63),
        "reporterBps": 9,
        "allowList": True,
    }
    changed: dict[str, Any] = {
        "pendingAdmin": str(keys[0]),
        "relayer": None,
        "treasury": str(keys[2]),
        "minBond": None,
        "timelock": "90",
        "claimDelay": None,
        "agentBondCap": str(2**64 - 1),
        "reporterBps": 65_535,
        "depositsPaused": True,
        "allowList": None,
    }
    root = bytes(range(32))
    agent, payout = keys[0], keys[1]
    expected = [
        (
            "initializeBond",
            configured,
            build.initialize_bond(network, payer=agent, upgrade_authority=agent, config=config),
        ),
        ("setConfig", changed, build.set_config(network, admin=agent, change=change)),
        ("acceptAdmin", {}, build.accept_admin(network, pending_admin=agent)),
        (
            "requestWithdrawal",
            {"amount": "7"},
            build.request_withdrawal(network, agent=agent, amount=7),
        ),
        ("cancelWithdrawal", {}, build.cancel_withdrawal(network, agent=agent, owner=agent)),
        ("withdrawBond", {}, build.withdraw_bond(network, agent=agent, destination=payout)),
        (
            "updateVendor",
            {"price": "5", "metadataUri": "https://é"},
            build.update_vendor(network, authority=agent, payout=payout, price=5, metadata_uri="https://é"),
        ),
        ("revokeGateway", {}, build.revoke_gateway(network, gateway=agent, authority=payout)),
        (
            "commitBatch",
            {"root": root.hex(), "leafCount": "3", "total": "4"},
            build.commit_batch(network, relayer=agent, sequence=0, root=root, leaf_count=3, total=4),
        ),
    ]
    calls = [{"name": name, "args": args} for name, args, _ in expected]
    answer = ask(client, {"command": "encode", "idl": document(str(network.program_id)), "calls": calls})
    assert answer == [bytes(ix.data).hex() for _, _, ix in expected]


async def _funded(chain: ChainClient, local: LocalChain, agent: Keypair, amount: int) -> Pubkey:
    """Lamports and tokens for a fresh agent. Returns its token account."""
    network, authority = local.network, local.keys.get("mint-authority").keypair()
    await chain.airdrop(agent.pubkey(), SOL)
    wallet = tokens.associated_token_address(agent.pubkey(), network.mint)
    steps = [
        tokens.create_ata_idempotent(payer=agent.pubkey(), owner=agent.pubkey(), mint=network.mint),
        tokens.mint_to(mint=network.mint, destination=wallet, authority=authority.pubkey(), amount=amount),
    ]
    await chain.send_and_confirm(steps, agent, [authority])
    return wallet
