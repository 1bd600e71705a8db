"""The agent's bond: one deposit on chain that stands behind every payment.

Amounts are atomic units of the network's token. Errors of the cluster itself are
`machpay.chain.errors.ChainError`.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Final

from solders.pubkey import Pubkey

from machpay.chain.accounts import AgentAccount, GlobalBond
from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError, ConfirmationTimeout, ProgramError, RpcUnavailable
from machpay.chain.instructions import deposit_bond
from machpay.chain.network import Network
from machpay.chain.tokens import associated_token_address
from machpay.chain.transactions import Commitment
from machpay.client.balance import ask_liability
from machpay.client.errors import (
    BondError,
    BondTooSmallError,
    DepositUnresolvedError,
    GatewayUnreachableError,
    InsufficientFundsError,
)
from machpay.client.transport import Transport
from machpay.protocol.encoding import parse_u64
from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SigningKey

COUNTED_WITHIN_S: Final = 15.0
"""How long a deposit waits for the relayer's mirror of the chain; it is final by then in any case."""
POLL_S: Final = 0.2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BondAccess:
    """What it takes to reach one agent's bond: the chain it lives on, the agent's key, and the relayer that counts it,
    if one is known."""

    chain: ChainClient
    network: Network
    key: SigningKey
    transport: Transport
    relayer_url: str | None

    async def rules(self) -> GlobalBond:
        """The network's rules for bonds of its token. Raises `BondError`."""
        bond = await self.chain.bond()
        if bond is None:
            raise BondError("this network has no bond for its token yet")
        return bond

    async def account(self, commitment: Commitment = "confirmed") -> AgentAccount | None:
        """The agent's account; None before its first deposit."""
        return await self.chain.agent(self.key.public, commitment)


class BondManager:
    """Deposits to and reads of one agent's bond. With a relayer's URL a deposit waits until it counts
    there."""

    def __init__(self, at: BondAccess) -> None:
        self._at = at

    async def deposit(self, amount_atomic: int, *, owner: Pubkey | None = None) -> str:
        """Move tokens from the agent's own token account to its bond and wait until gateways count them:
        until the transaction is final, and the relayer has seen it.

        The first deposit creates the agent's account and names `owner`, the wallet that withdrawals go to:
        the agent itself by default. Returns the transaction's signature.
        """
        if amount_atomic <= 0:
            raise BondError("a deposit must be positive")
        agent = self._at.key.public
        source = associated_token_address(agent, self._at.network.mint)
        held = await self._at.chain.token_balance(source)
        if held < amount_atomic:
            raise InsufficientFundsError(needed=amount_atomic, held=held)
        bond = await self._at.rules()
        is_first = await self._at.account() is None
        if is_first and amount_atomic < bond.min_bond:
            raise BondTooSmallError(amount=amount_atomic, minimum=bond.min_bond)
        instruction = deposit_bond(
            self._at.network,
            agent=agent,
            source=source,
            amount=amount_atomic,
            owner=(owner or agent) if is_first else owner,
        )
        try:
            signature = await self._at.chain.send_and_confirm(
                [instruction], self._at.key.keypair(), commitment="finalized"
            )
        except ProgramError as error:
            if error.name == "BelowMinimumBond":
                raise BondTooSmallError(amount=amount_atomic, minimum=bond.min_bond) from error
            raise
        except (ConfirmationTimeout, RpcUnavailable) as error:
            raise DepositUnresolvedError(str(error)) from error
        if self._at.relayer_url is not None:
            await self._wait_until_counted(self._at.relayer_url)
        return signature

    async def balance(self) -> int:
        """The agent's bond on chain; 0 before the first deposit. Payments lower it when they are settled."""
        account = await self._at.account()
        return 0 if account is None else account.bond

    async def _wait_until_counted(self, relayer_url: str) -> None:
        """Return when the relayer's bond is the chain's, or after `COUNTED_WITHIN_S`: the deposit stands
        either way.

        Both are read anew each time, because settlements of the same agent lower the bond meanwhile.
        """
        deadline = time.monotonic() + COUNTED_WITHIN_S
        detail = ""
        while time.monotonic() < deadline:
            try:
                account = await self._at.account("finalized")
                answer = await ask_liability(self._at.transport, self._at.key, relayer_url)
                counted = parse_u64(answer.snapshot.bond, "bond")
            except (ChainError, GatewayUnreachableError, MalformedError) as error:
                detail = str(error)
            else:
                if account is not None and counted == account.bond:
                    return
                detail = f"it counts a bond of {counted}"
            await asyncio.sleep(POLL_S)
        logger.warning("the relayer does not count the deposit yet: %s", detail)
