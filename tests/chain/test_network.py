"""Addresses: each from its documented seeds, so that another implementation can be checked against this one."""

from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.chain.network import Network

PROGRAM = Pubkey.from_string("F83muwL8bL5M9vH5ASB2oxJS2By4mHVNnHJ9BSND9dQk")
MINT = Pubkey.from_string("GCkWCknJ46pyPNHC9DPjTxedvjLHYJUVioxe7X5o6xa4")
DOMAIN = Hash.from_string("5eykt4UsFv8P8NJdTREpY1vzqKqZKvdpKuc147dw2N9d")
AGENT, GATEWAY = Pubkey.from_bytes(bytes([1]) * 32), Pubkey.from_bytes(bytes([2]) * 32)

NETWORK = Network(PROGRAM, MINT, DOMAIN)


def derived(*seeds: bytes) -> Pubkey:
    return Pubkey.find_program_address(seeds, PROGRAM)[0]


def test_the_caip2_name_is_the_genesis_hash_cut_to_32_characters() -> None:
    assert NETWORK.caip2 == "solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp"


def test_every_address_follows_from_its_seeds() -> None:
    mint, domain = bytes(MINT), bytes(DOMAIN)
    assert NETWORK.bond() == derived(b"bond", mint)
    assert NETWORK.vault() == derived(b"vault", mint)
    assert NETWORK.event_authority() == derived(b"__event_authority")
    assert NETWORK.agent_account(AGENT) == derived(b"agent", mint, bytes(AGENT))
    assert NETWORK.vendor_account(AGENT) == derived(b"vendor", bytes(AGENT))
    assert NETWORK.gateway_account(GATEWAY) == derived(b"gateway", bytes(GATEWAY))
    assert NETWORK.channel(AGENT, GATEWAY) == derived(b"channel", domain, mint, bytes(AGENT), bytes(GATEWAY))
    assert NETWORK.batch(258) == derived(b"batch", mint, (258).to_bytes(8, "little"))


def test_a_channel_differs_by_program_mint_domain_agent_and_gateway() -> None:
    other = Pubkey.from_bytes(bytes([3]) * 32)
    channels = {
        NETWORK.channel(AGENT, GATEWAY),
        NETWORK.channel(GATEWAY, AGENT),
        NETWORK.channel(other, GATEWAY),
        NETWORK.channel(AGENT, other),
        Network(other, MINT, DOMAIN).channel(AGENT, GATEWAY),
        Network(PROGRAM, other, DOMAIN).channel(AGENT, GATEWAY),
        Network(PROGRAM, MINT, Hash(bytes(other))).channel(AGENT, GATEWAY),
    }
    assert len(channels) == 7


def test_equal_networks_are_one_key() -> None:
    assert {NETWORK: 1}[Network(PROGRAM, MINT, DOMAIN)] == 1
