"""ChainClient.events: what the program recorded in one transaction, as the RPC server tells it."""

from solders.keypair import Keypair
from solders.pubkey import Pubkey

from machpay.chain import instructions as build
from machpay.chain.client import ChainClient
from machpay.chain.events import VendorRegistered
from machpay.chain.tokens import associated_token_address, create_ata_idempotent
from tests.support.chain import LocalChain, module_chain  # noqa: F401

SOL = 1_000_000_000
UNKNOWN = "1" * 64


async def _register(chain: ChainClient, local: LocalChain, authority: Keypair) -> str:
    payout = associated_token_address(authority.pubkey(), local.network.mint)
    await chain.airdrop(authority.pubkey(), SOL)
    steps = [
        create_ata_idempotent(payer=authority.pubkey(), owner=authority.pubkey(), mint=local.network.mint),
        build.register_vendor(
            local.network, authority=authority.pubkey(), payout=payout, price=7, metadata_uri="uri"
        ),
    ]
    return await chain.send_and_confirm(steps, authority)


def test_events_come_with_the_instruction_that_recorded_them(local_chain: LocalChain) -> None:
    authority = Keypair()
    signature = local_chain.call(lambda chain: _register(chain, local_chain, authority))
    (record,) = local_chain.call(lambda chain: chain.events(signature)) or []
    mint = local_chain.network.mint
    payout = associated_token_address(authority.pubkey(), mint)
    assert record.event == VendorRegistered(authority.pubkey(), mint, payout, 7, "uri")
    assert record.instruction == 1
    assert record.caller.data[:8] == build.discriminator("register_vendor")
    assert record.caller.accounts[1] == authority.pubkey()


def test_a_transaction_of_other_programs_has_no_events(local_chain: LocalChain) -> None:
    signature = local_chain.call(lambda chain: chain.airdrop(Pubkey.new_unique(), SOL))
    assert local_chain.call(lambda chain: chain.events(signature)) == []


def test_an_unknown_transaction_has_none(local_chain: LocalChain) -> None:
    assert local_chain.call(lambda chain: chain.events(UNKNOWN)) is None
