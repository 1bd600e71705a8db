"""`manage.py demo_fund`: SOL and test USDC for any key, on the demo's chain and nowhere else."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from solders.pubkey import Pubkey

from devnet.services.ports import free_port
from machpay.chain import tokens
from machpay.protocol.keys import SigningKey
from tests.support.chain import LocalChain


def balance(chain: LocalChain, owner: Pubkey) -> tuple[int, int]:
    """Lamports and atomic units of test USDC."""
    wallet = tokens.associated_token_address(owner, chain.network.mint)
    return (
        chain.call(lambda client: client.lamports(owner)),
        chain.call(lambda client: client.token_balance(wallet, "confirmed")),
    )


def refused(*arguments: str) -> str:
    with pytest.raises(CommandError) as caught:
        call_command("demo_fund", *arguments)
    return str(caught.value)


@pytest.fixture
def owner() -> Pubkey:
    return SigningKey.generate().public


def test_a_key_gets_sol_and_test_usdc_and_its_balances_are_printed(
    chain_settings: LocalChain, owner: Pubkey
) -> None:
    out = StringIO()
    call_command("demo_fund", str(owner), "5000000", stdout=out)

    lamports, atomic = balance(chain_settings, owner)
    assert (lamports, atomic) == (10_000_000_000, 5_000_000)
    wallet = tokens.associated_token_address(owner, chain_settings.network.mint)
    assert out.getvalue().splitlines() == [
        f"agent   {owner}",
        f"wallet  {wallet}",
        "SOL     10",
        "USDC    5.00 (5000000 atomic)",
    ]


def test_funding_again_adds_usdc_and_no_more_sol_than_needed(
    chain_settings: LocalChain, owner: Pubkey
) -> None:
    for amount in ("1", "2"):
        call_command("demo_fund", str(owner), amount, stdout=StringIO())
    assert balance(chain_settings, owner) == (10_000_000_000, 3)


@pytest.mark.parametrize("amount", ["0", "18446744073709551616"])
def test_an_amount_no_account_can_receive_is_refused(
    chain_settings: LocalChain, owner: Pubkey, amount: str
) -> None:
    assert refused(str(owner), amount) == (
        "the amount must be a positive number of atomic units (1 USDC = 1000000)"
    )
    assert balance(chain_settings, owner) == (0, 0)


def test_a_negative_amount_is_refused(chain_settings: LocalChain, owner: Pubkey) -> None:
    assert refused(str(owner), "--", "-5") == (
        "the amount must be a positive number of atomic units (1 USDC = 1000000)"
    )


def test_an_amount_that_is_no_number_is_refused(chain_settings: LocalChain, owner: Pubkey) -> None:
    assert "invalid int value: '1.5'" in refused(str(owner), "1.5")


def test_a_key_that_is_none_is_refused(chain_settings: LocalChain) -> None:
    assert refused("not-a-key", "1") == "not a public key: not-a-key"


def test_outside_the_demo_it_is_refused(chain_settings: LocalChain, owner: Pubkey, settings) -> None:
    settings.MACHPAY_PROFILE = "production"
    assert refused(str(owner), "1") == ("test money exists in the demo profile only (MACHPAY_PROFILE=demo)")
    assert balance(chain_settings, owner) == (0, 0)


def test_a_chain_that_is_away_is_said(chain_settings: LocalChain, owner: Pubkey, settings) -> None:
    settings.SOLANA_RPC_URL = f"http://127.0.0.1:{free_port()}"
    assert refused(str(owner), "1").startswith(f"the chain at {settings.SOLANA_RPC_URL} does not answer: ")


def test_a_chain_without_the_mint_is_said(chain_settings: LocalChain, owner: Pubkey, settings) -> None:
    settings.USDC_MINT = str(SigningKey.generate().public)
    assert (
        refused(str(owner), "1") == f"the chain at {settings.SOLANA_RPC_URL} has no mint {settings.USDC_MINT}"
    )


@pytest.mark.parametrize("name", ["SOLANA_RPC_URL", "USDC_MINT", "MINT_AUTHORITY_KEYPAIR"])
def test_a_missing_setting_is_named(chain_settings: LocalChain, owner: Pubkey, settings, name: str) -> None:
    setattr(settings, name, "")
    assert name in refused(str(owner), "1")


def test_somebody_elses_key_cannot_mint(chain_settings: LocalChain, owner: Pubkey, settings) -> None:
    settings.MINT_AUTHORITY_KEYPAIR = str(chain_settings.keys.path("relayer"))
    assert refused(str(owner), "1").startswith("the chain refused: ")
    assert balance(chain_settings, owner)[1] == 0
