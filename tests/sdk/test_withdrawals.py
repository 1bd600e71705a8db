"""Withdrawing a bond: the real program, its clock moved, and a relayer that says what is owed."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from devnet.chain import MIN_BOND_ATOMIC
from machpay import MachPayClient, MachPayConfig
from machpay.client.errors import (
    BondError,
    InsufficientBondError,
    OutstandingLiabilityError,
    TimelockError,
    WithdrawalTooLargeError,
)
from machpay.protocol.keys import SigningKey
from tests.sdk.test_bonds import a_relayer, a_wallet, config, wallet_balance
from tests.support.chain import LocalChain, module_chain

__all__ = ["config", "module_chain"]

Config = Callable[[SigningKey], MachPayConfig]
BOND = 3 * MIN_BOND_ATOMIC


async def bonded(local_chain: LocalChain, config: Config) -> SigningKey:
    key = await a_wallet(local_chain, tokens_atomic=BOND)
    async with MachPayClient(config(key)) as client:
        await client.deposit_bond(BOND)
    return key


async def test_a_withdrawal_is_requested_waits_and_is_paid_to_the_owner(local_chain, config):
    key = await bonded(local_chain, config)
    async with MachPayClient(config(key)) as client:
        requested = await client.withdraw_bond(MIN_BOND_ATOMIC)
        info = await client.get_bond_info()
        assert (info.balance, info.pending_withdrawal, info.liability) == (BOND, MIN_BOND_ATOMIC, None)
        assert info.owner == key.pubkey
        assert info.unlocks_at is not None

        with pytest.raises(TimelockError) as raised:
            await client.withdraw_bond(MIN_BOND_ATOMIC)
        assert (raised.value.unlocks_at, raised.value.amount) == (info.unlocks_at, MIN_BOND_ATOMIC)
        assert await wallet_balance(local_chain, key) == 0

        with local_chain.control() as control:
            control.move_clock(info.timelock_s + 1)
        assert await client.withdraw_bond(MIN_BOND_ATOMIC) != requested
        after = await client.get_bond_info()
    assert (after.balance, after.pending_withdrawal, after.unlocks_at) == (BOND - MIN_BOND_ATOMIC, 0, None)
    assert await wallet_balance(local_chain, key) == MIN_BOND_ATOMIC


@pytest.mark.parametrize("amount", [BOND + 1, BOND - MIN_BOND_ATOMIC + 1, BOND - 1])
async def test_more_than_the_bond_or_less_than_the_minimum_left_is_refused(local_chain, config, amount):
    key = await bonded(local_chain, config)
    async with MachPayClient(config(key)) as client:
        with pytest.raises(InsufficientBondError) as raised:
            await client.withdraw_bond(amount)
        assert isinstance(raised.value, WithdrawalTooLargeError)
        assert (raised.value.balance, raised.value.minimum) == (BOND, MIN_BOND_ATOMIC)
        assert (await client.get_bond_info()).pending_withdrawal == 0


@pytest.mark.parametrize("amount", [BOND, BOND - MIN_BOND_ATOMIC])
async def test_all_of_it_or_all_above_the_minimum_may_go_and_be_cancelled(local_chain, config, amount):
    key = await bonded(local_chain, config)
    async with MachPayClient(config(key)) as client:
        await client.withdraw_bond(amount)
        assert (await client.get_bond_info()).pending_withdrawal == amount
        with pytest.raises(BondError, match="is pending"):
            await client.withdraw_bond(amount - 1)
        await client.cancel_withdrawal()
        assert (await client.get_bond_info()).pending_withdrawal == 0
        with pytest.raises(BondError, match="no withdrawal is pending"):
            await client.cancel_withdrawal()


async def test_unsettled_charges_come_first(local_chain, config):
    key = await bonded(local_chain, config)
    async with a_relayer(key, [str(BOND)], liability="7") as (url, asked):
        async with MachPayClient(replace(config(key), relayer_url=url)) as client:
            with pytest.raises(OutstandingLiabilityError) as raised:
                await client.withdraw_bond(BOND)
            info = await client.get_bond_info()
        assert len(asked) == 2
    assert raised.value.liability == info.liability == 7
    assert info.pending_withdrawal == 0


async def test_a_relayer_that_is_away_does_not_lock_the_bond_in(local_chain, config):
    key = await bonded(local_chain, config)
    async with MachPayClient(replace(config(key), relayer_url="http://127.0.0.1:9")) as client:
        await client.withdraw_bond(BOND)
        info = await client.get_bond_info()
    assert (info.pending_withdrawal, info.liability) == (BOND, None)


async def test_without_a_bond_there_is_nothing_to_withdraw(local_chain, config):
    async with MachPayClient(config(SigningKey.generate())) as client:
        with pytest.raises(InsufficientBondError):
            await client.withdraw_bond(1)
        info = await client.get_bond_info()
    assert (info.balance, info.owner, info.minimum) == (0, None, MIN_BOND_ATOMIC)


@pytest.mark.parametrize("amount", [0, -1])
async def test_a_withdrawal_must_be_positive(config, amount):
    async with MachPayClient(config(SigningKey.generate())) as client:
        with pytest.raises(BondError, match="positive"):
            await client.withdraw_bond(amount)


async def test_only_the_owner_cancels(local_chain, config):
    key, owner = await a_wallet(local_chain, tokens_atomic=BOND), SigningKey.generate()
    async with MachPayClient(config(key)) as client:
        await client.deposit_bond(BOND, owner=owner.pubkey)
        await client.withdraw_bond(BOND)
        with pytest.raises(BondError, match=owner.pubkey):
            await client.cancel_withdrawal()
        with local_chain.control() as control:
            control.move_clock((await client.get_bond_info()).timelock_s + 1)
        await client.withdraw_bond(BOND)
    assert await wallet_balance(local_chain, owner) == BOND
