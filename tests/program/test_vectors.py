"""The golden vectors, run through the bytecode: what the vectors call a channel and a voucher, the program settles."""

import json
from typing import Any

import pytest
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.chain import instructions as build
from machpay.chain.accounts import Channel
from machpay.chain.ed25519 import attest
from machpay.chain.network import Network
from machpay.protocol.aggregates import Aggregate, ChannelTotal
from machpay.protocol.intents import Voucher
from tests.program.world import ROOT, USDC, Refused, Vendor, World, done

VECTORS = ROOT / "contracts" / "vectors"
U64_MAX = 2**64 - 1
BOND_OFFSET, GATEWAY_KEY_OFFSET = 112, 16

INTENTS = json.loads((VECTORS / "intents.json").read_text())
CHANNELS = json.loads((VECTORS / "channels.json").read_text())
AGGREGATES = json.loads((VECTORS / "aggregates.json").read_text())
SIGNATURES = json.loads((VECTORS / "signatures.json").read_text())


def _network(document: dict[str, Any]) -> Network:
    names = document["network"]
    return Network(
        Pubkey.from_string(names["programId"]),
        Pubkey.from_string(names["mint"]),
        Hash.from_string(names["domain"]),
    )


def _world(document: dict[str, Any]) -> World:
    world = World(_network(document))
    done(world.initialize_bond())
    return world


def _vendor_with_gateway(world: World, gateway: Pubkey) -> Vendor:
    """A vendor whose gateway has the vector's key: its private half is not in the vectors, so the account is moved."""
    vendor = world.vendor()
    account = world.svm.get_account(world.network.gateway_account(vendor.gateway.pubkey()))
    assert account is not None
    address = world.network.gateway_account(gateway)
    world.svm.set_account(address, account)
    world.patch(address, GATEWAY_KEY_OFFSET, bytes(gateway))
    return vendor


@pytest.mark.parametrize("vector", CHANNELS["vectors"], ids=lambda vector: vector["channel"][:8])
def test_channel_addresses_are_those_of_the_vectors(vector: dict[str, Any]) -> None:
    network = _network(CHANNELS)
    channel = network.channel(Pubkey.from_string(vector["agent"]), Pubkey.from_string(vector["gateway"]))
    assert (str(channel), bytes(channel).hex()) == (vector["channel"], vector["channelHex"])


@pytest.mark.parametrize("vector", INTENTS["vectors"], ids=lambda vector: vector["name"])
def test_the_program_settles_every_intent_of_the_vectors(vector: dict[str, Any]) -> None:
    world = _world(INTENTS)
    agent = Keypair.from_seed(bytes.fromhex(vector["agentSeedHex"]))
    gateway = Pubkey.from_string(vector["gateway"])
    vendor = _vendor_with_gateway(world, gateway)
    world.svm.airdrop(agent.pubkey(), 10**10)
    done(world.deposit(agent, USDC))
    world.patch(world.network.agent_account(agent.pubkey()), BOND_OFFSET, U64_MAX.to_bytes(8, "little"))
    world.token_account(world.network.bond(), U64_MAX, at=world.network.vault())

    cumulative = int(vector["cumulative"])
    voucher = Voucher(
        Pubkey.from_string(vector["channel"]),
        cumulative,
        bytes.fromhex(vector["contextHex"]),
        bytes.fromhex(vector["signatureHex"]),
    )
    assert voucher.message.hex() == vector["messageHex"]
    item = build.ChannelSettlement(agent.pubkey(), gateway, voucher, up_to=U64_MAX, create=True)
    done(world.settle(vendor, item))
    assert world.tokens(vendor.payout) == cumulative


# Those about channels that exist in the other vectors and belong to the signer.
OWN = ["one channel", "two channels, given in the other order", "zero and u64 max"]


@pytest.mark.parametrize(
    "vector",
    [vector for vector in AGGREGATES["vectors"] if vector["name"] in OWN],
    ids=lambda vector: vector["name"],
)
def test_the_program_settles_the_aggregated_vouchers_of_the_vectors(vector: dict[str, Any]) -> None:
    world = _world(AGGREGATES)
    agent = Keypair.from_seed(bytes.fromhex(vector["agentSeedHex"]))
    world.svm.airdrop(agent.pubkey(), 10**10)
    done(world.deposit(agent, USDC))
    world.patch(world.network.agent_account(agent.pubkey()), BOND_OFFSET, U64_MAX.to_bytes(8, "little"))
    totals = [
        ChannelTotal(Pubkey.from_string(total["channel"]), int(total["cumulative"]))
        for total in vector["totals"]
    ]
    gateways = {known["channel"]: Pubkey.from_string(known["gateway"]) for known in CHANNELS["vectors"]}
    for total in totals:
        gateway = gateways[str(total.channel)]
        vendor = _vendor_with_gateway(world, gateway)
        nothing = world.voucher(agent, gateway, 0)
        done(world.settle(vendor, build.ChannelSettlement(agent.pubkey(), gateway, nothing, 0, create=True)))

    aggregate = Aggregate(world.network.domain, world.network.mint, agent.pubkey(), tuple(totals))
    assert aggregate.message.hex() == vector["messageHex"]
    ixs = build.settle_aggregated(
        world.network,
        relayer=world.relayer.pubkey(),
        aggregate=aggregate,
        signature=bytes.fromhex(vector["signatureHex"]),
    )
    done(world.send(*ixs, signers=(world.relayer,)))
    for total in totals:
        data = world.data(total.channel)
        assert data is not None
        channel = Channel.decode(data)
        assert (channel.settled, channel.owed) == (total.cumulative, total.cumulative)


WHOLE = [vector for vector in SIGNATURES["vectors"] if len(vector["signatureHex"]) == 128]
CUT = [vector for vector in SIGNATURES["vectors"] if len(vector["signatureHex"]) != 128]


def _attestation(vector: dict[str, Any]) -> Instruction:
    message = bytes.fromhex(vector["messageHex"])
    voucher = Voucher(
        Pubkey(message[4:36]),
        int.from_bytes(message[36:44], "little"),
        message[44:60],
        bytes.fromhex(vector["signatureHex"]),
    )
    assert voucher.message == message
    return attest([(Pubkey(bytes.fromhex(vector["publicKeyHex"])), voucher)])


@pytest.mark.parametrize("vector", WHOLE, ids=lambda vector: vector["name"])
def test_the_runtime_judges_signatures_as_the_vectors_do(vector: dict[str, Any]) -> None:
    """The precompile alone: a signature that Python accepts must be good on chain, and the other way round."""
    outcome = World().send(_attestation(vector))
    assert isinstance(outcome, Refused) is not vector["valid"]


@pytest.mark.parametrize("vector", CUT, ids=lambda vector: vector["name"])
def test_a_signature_of_another_length_is_never_put_on_chain(vector: dict[str, Any]) -> None:
    assert not vector["valid"]
    with pytest.raises(ValueError, match="64 bytes"):
        _attestation(vector)
