"""Methods about SPL tokens."""

from collections.abc import Callable
from typing import Any

from contracts.localnet import tokens
from contracts.localnet.rpc.accounts import encoder, keyed
from contracts.localnet.rpc.context import Call
from contracts.localnet.rpc.errors import invalid_params
from contracts.localnet.rpc.params import parse_pubkey


def get_token_account_balance(call: Call) -> dict[str, Any]:
    """`getTokenAccountBalance`."""
    address = call.params.pubkey(0)
    commitment = call.view(call.params.config(1))
    token = tokens.parse_account(call.ledger.account(address, commitment))
    if token is None:
        raise invalid_params("could not find account or not a Token account")
    mint = tokens.parse_mint(call.ledger.account(token.mint, commitment))
    if mint is None:
        raise invalid_params("could not find the account's mint")
    return call.answer(commitment, tokens.amount_json(token.amount, mint.decimals))


def get_token_supply(call: Call) -> dict[str, Any]:
    """`getTokenSupply`."""
    address = call.params.pubkey(0)
    commitment = call.view(call.params.config(1))
    mint = tokens.parse_mint(call.ledger.account(address, commitment))
    if mint is None:
        raise invalid_params("could not find account or not a Token mint")
    return call.answer(commitment, tokens.amount_json(mint.supply, mint.decimals))


def get_token_accounts_by_owner(call: Call) -> dict[str, Any]:
    """`getTokenAccountsByOwner`, of one mint or of one token program."""
    owner = call.params.pubkey(0)
    selector = call.params.value(1)
    config = call.params.config(2)
    commitment = call.view(config)
    if not isinstance(selector, dict) or len(selector) != 1 or set(selector) - {"mint", "programId"}:
        raise invalid_params("the second parameter must be {mint: address} or {programId: address}")
    mint = program = None
    if "mint" in selector:
        mint = parse_pubkey(selector["mint"])
        account = call.ledger.account(mint, commitment)
        if account is None or tokens.parse_mint(account) is None:
            raise invalid_params("could not find mint")
        program = account.owner
    else:
        program = parse_pubkey(selector["programId"])
        if program not in tokens.PROGRAM_NAMES:
            raise invalid_params("unrecognized Token program id")
    found = []
    for address, account in call.ledger.owned_by(program, commitment):
        token = tokens.parse_account(account)
        if token is not None and token.owner == owner and mint in (None, token.mint):
            found.append((address, account))
    return call.answer(commitment, keyed(encoder(call, config, commitment), found))


METHODS: dict[str, Callable[[Call], Any]] = {
    "getTokenAccountBalance": get_token_account_balance,
    "getTokenSupply": get_token_supply,
    "getTokenAccountsByOwner": get_token_accounts_by_owner,
}
