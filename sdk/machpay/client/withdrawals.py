"""The agent's way out: request a withdrawal, wait for the timelock, take the tokens.

The program protects vendors by the timelock: settlements and claims win until a withdrawal is executed. The checks here
say beforehand what it would refuse, and keep an agent from announcing what it still owes. Amounts are atomic units,
times unix seconds of the chain's clock.
"""

import logging
from dataclasses import dataclass

from solders.pubkey import Pubkey

from machpay.chain.accounts import AgentAccount
from machpay.chain.errors import ProgramError
from machpay.chain.instructions import cancel_withdrawal, request_withdrawal, withdraw_bond
from machpay.chain.tokens import associated_token_address, create_ata_idempotent
from machpay.client.balance import ask_liability
from machpay.client.bonds import BondAccess
from machpay.client.errors import (
    BondError,
    GatewayUnreachableError,
    OutstandingLiabilityError,
    TimelockError,
    WithdrawalTooLargeError,
)
from machpay.protocol.encoding import parse_u64
from machpay.protocol.errors import MalformedError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BondInfo:
    """An agent's bond as the chain has it. `liability` is what the relayer says was charged and is not settled
    yet: None without a relayer, or while it does not answer. `unlocks_at` is None while no withdrawal is pending;
    `owner` is None before the first deposit."""

    balance: int
    pending_withdrawal: int
    unlocks_at: int | None
    open_claims: int
    liability: int | None
    minimum: int
    timelock_s: int
    owner: str | None
    is_slashed: bool


class WithdrawalManager:
    """Withdrawals from one agent's bond."""

    def __init__(self, at: BondAccess) -> None:
        self._at = at

    async def info(self) -> BondInfo:
        bond = await self._at.rules()
        account = await self._at.account()
        pending = 0 if account is None else account.pending_withdrawal
        return BondInfo(
            balance=0 if account is None else account.bond,
            pending_withdrawal=pending,
            unlocks_at=account.withdrawal_unlock if account is not None and pending else None,
            open_claims=0 if account is None else account.open_claims,
            liability=await self._liability(),
            minimum=bond.min_bond,
            timelock_s=bond.timelock,
            owner=None if account is None else str(account.owner),
            is_slashed=account is not None and account.slashed,
        )

    async def withdraw(self, amount: int) -> str:
        """Request the withdrawal of `amount` if none is pending, else execute the one that is; returns the
        transaction's signature. See `MachPayClient.withdraw_bond`."""
        if amount <= 0:
            raise BondError("a withdrawal must be positive")
        bond = await self._at.rules()
        account = await self._at.account()
        if account is None:
            raise WithdrawalTooLargeError(amount=amount, balance=0, minimum=bond.min_bond)
        if account.slashed:
            raise BondError("the agent is slashed: its bond is forfeited")
        if account.pending_withdrawal:
            await self._check_unlocked(amount, account)
        else:
            left = account.bond - amount
            if left < 0 or 0 < left < bond.min_bond:
                raise WithdrawalTooLargeError(amount=amount, balance=account.bond, minimum=bond.min_bond)
        await self._check_liability()
        try:
            if account.pending_withdrawal:
                return await self._execute(account.owner)
            step = request_withdrawal(self._at.network, agent=self._at.key.public, amount=amount)
            return await self._at.chain.send_and_confirm(
                [step], self._at.key.keypair(), commitment="finalized"
            )
        except ProgramError as error:
            if error.name in ("InsufficientBond", "BelowMinimumBond"):
                raise WithdrawalTooLargeError(
                    amount=amount, balance=account.bond, minimum=bond.min_bond
                ) from error
            if error.name == "WithdrawalLocked":
                raise TimelockError(unlocks_at=account.withdrawal_unlock, amount=amount) from error
            raise

    async def cancel(self) -> str:
        """Take the pending withdrawal back; returns the transaction's signature."""
        account = await self._at.account()
        if account is None or not account.pending_withdrawal:
            raise BondError("no withdrawal is pending")
        if account.owner != self._at.key.public:
            raise BondError(f"only the owner {account.owner} cancels a withdrawal")
        step = cancel_withdrawal(self._at.network, agent=self._at.key.public, owner=account.owner)
        return await self._at.chain.send_and_confirm([step], self._at.key.keypair(), commitment="finalized")

    async def _execute(self, owner: Pubkey) -> str:
        destination = associated_token_address(owner, self._at.network.mint)
        steps = [
            create_ata_idempotent(payer=self._at.key.public, owner=owner, mint=self._at.network.mint),
            withdraw_bond(self._at.network, agent=self._at.key.public, destination=destination),
        ]
        return await self._at.chain.send_and_confirm(steps, self._at.key.keypair(), commitment="finalized")

    async def _check_unlocked(self, amount: int, account: AgentAccount) -> None:
        if account.pending_withdrawal != amount:
            raise BondError(
                f"a withdrawal of {account.pending_withdrawal} is pending, not of {amount}: execute or cancel it"
            )
        if await self._at.chain.unix_timestamp() < account.withdrawal_unlock:
            raise TimelockError(unlocks_at=account.withdrawal_unlock, amount=amount)

    async def _check_liability(self) -> None:
        liability = await self._liability()
        if liability:
            raise OutstandingLiabilityError(liability=liability)

    async def _liability(self) -> int | None:
        """What the relayer says is charged and not settled. A relayer that is away must not lock a bond in: then
        the timelock alone protects vendors."""
        if self._at.relayer_url is None:
            return None
        try:
            answer = await ask_liability(self._at.transport, self._at.key, self._at.relayer_url)
            return parse_u64(answer.snapshot.liability, "liability")
        except (GatewayUnreachableError, MalformedError) as error:
            logger.warning("the relayer does not say what is owed: %s", error)
            return None
