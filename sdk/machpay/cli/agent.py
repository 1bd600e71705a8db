"""`machpay agent`: the key, the bond, and the way out of it."""

import argparse
import asyncio
from pathlib import Path

from machpay.chain.errors import ChainError
from machpay.cli.codes import OK
from machpay.cli.options import DEFAULT_KEY, config_of, say, usdc
from machpay.client import MachPayClient
from machpay.client.errors import ConfigError
from machpay.client.withdrawals import BondInfo
from machpay.protocol.encoding import to_rfc3339
from machpay.protocol.keys import SigningKey


def init(options: argparse.Namespace) -> int:
    path = Path(options.key or DEFAULT_KEY)
    key = SigningKey.generate()
    try:
        key.save(path)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists; a key is never overwritten") from error
    say(options, {"agent": key.pubkey, "key_file": str(path)}, f"agent {key.pubkey}, key in {path}")
    return OK


def balance(options: argparse.Namespace) -> int:
    async def ask() -> tuple[str, int]:
        async with MachPayClient(config_of(options)) as client:
            return client.agent, await client.get_bond_balance()

    agent, bond = asyncio.run(ask())
    say(options, {"agent": agent, "bond_atomic": bond}, f"{usdc(bond)} USDC")
    return OK


def deposit(options: argparse.Namespace) -> int:
    async def deposit() -> tuple[str, int | None]:
        async with MachPayClient(config_of(options)) as client:
            signature = await client.deposit_bond(options.amount_atomic)
            try:
                return signature, await client.get_bond_balance()
            except ChainError:
                # The deposit is made, and nobody may believe otherwise.
                return signature, None

    signature, bond = asyncio.run(deposit())
    result = {"transaction": signature, "deposited_atomic": options.amount_atomic}
    if bond is None:
        say(options, result, signature)
    else:
        say(options, {**result, "bond_atomic": bond}, f"{signature}\nbond {usdc(bond)} USDC")
    return OK


def withdraw(options: argparse.Namespace) -> int:
    async def withdraw() -> tuple[str, BondInfo | None]:
        async with MachPayClient(config_of(options)) as client:
            if options.cancel:
                signature = await client.cancel_withdrawal()
            else:
                signature = await client.withdraw_bond(options.amount_atomic)
            try:
                return signature, await client.get_bond_info()
            except ChainError:
                return signature, None

    if options.cancel == (options.amount_atomic is not None):
        raise ConfigError("withdraw takes either an amount or --cancel")
    signature, info = asyncio.run(withdraw())
    if info is None:
        say(options, {"transaction": signature}, signature)
        return OK
    pending = (
        f", {usdc(info.pending_withdrawal)} USDC unlock at {to_rfc3339(info.unlocks_at)}"
        if info.unlocks_at
        else ""
    )
    say(
        options,
        {
            "transaction": signature,
            "bond_atomic": info.balance,
            "pending_atomic": info.pending_withdrawal,
            "unlocks_at": info.unlocks_at,
        },
        f"{signature}\nbond {usdc(info.balance)} USDC{pending}",
    )
    return OK
