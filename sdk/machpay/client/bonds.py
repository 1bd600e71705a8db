"""The agent's bond: one deposit on chain that stands behind every payment.

Amounts are atomic units of the network's token. Errors of the cluster itself are
`machpay.chain.errors.ChainError`.
"""

from solders.pubkey import Pubkey

from machpay.chain.client import ChainClient
from machpay.chain.errors import ProgramError
from machpay.chain.instructions import deposit_bond
from machpay.chain.network import Network
from machpay.chain.tokens import associated_token_address
from machpay.client.errors import BondError, BondTooSmallError, InsufficientFundsError
from machpay.protocol.keys import SigningKey


class BondManager:
    """Deposits to and reads of one agent's bond."""

    def __init__(self, chain: ChainClient, network: Network, key: SigningKey) -> None:
        self._chain = chain
        self._network = network
        self._key = key

    async def deposit(self, amount_atomic: int, *, owner: Pubkey | None = None) -> str:
        """Move tokens from the agent's own token account to its bond and wait until that is confirmed.

        The first deposit creates the agent's account and names `owner`, the wallet that withdrawals go to:
        the agent itself by default. Returns the transaction's signature.
        """
        if amount_atomic <= 0:
            raise BondError("a deposit must be positive")
        agent = self._key.public
        source = associated_token_address(agent, self._network.mint)
        held = await self._chain.token_balance(source)
        if held < amount_atomic:
            raise InsufficientFundsError(needed=amount_atomic, held=held)
        bond = await self._chain.bond()
        if bond is None:
            raise BondError("this network has no bond for its token yet")
        is_first = await self._chain.agent(agent) is None
        if is_first and amount_atomic < bond.min_bond:
            raise BondTooSmallError(amount=amount_atomic, minimum=bond.min_bond)
        instruction = deposit_bond(
            self._network,
            agent=agent,
            source=source,
            amount=amount_atomic,
            owner=(owner or agent) if is_first else owner,
        )
        try:
            return await self._chain.send_and_confirm([instruction], self._key.keypair())
        except ProgramError as error:
            if error.name == "BelowMinimumBond":
                raise BondTooSmallError(amount=amount_atomic, minimum=bond.min_bond) from error
            raise

    async def balance(self) -> int:
        """The agent's bond on chain; 0 before the first deposit. Payments lower it when they are settled."""
        account = await self._chain.agent(self._key.public)
        return 0 if account is None else account.bond
