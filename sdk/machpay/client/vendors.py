"""Whose gateway it is. A 402 names the vendor it pays, but that is the gateway's word. The chain binds each gateway to
one vendor for ever: only that keeps an allow-list or a budget of vendors."""

from typing import Final

from solders.pubkey import Pubkey

from machpay.chain.client import ChainClient
from machpay.chain.errors import ChainError
from machpay.client.budgets import Budgets
from machpay.client.errors import GatewayMismatchError, NotAllowedError

MAX_KNOWN: Final = 65_536


class Vendors:
    """The vendors of the gateways that were seen. `chain` is None where nothing can be read: then a gateway keeps the
    vendor that it named first."""

    def __init__(self, budgets: Budgets, chain: ChainClient | None) -> None:
        self._names_vendors = budgets.names_vendors
        self._chain = chain
        self._known: dict[Pubkey, Pubkey] = {}

    def is_known(self, gateway: Pubkey, vendor: Pubkey) -> bool:
        """Whether this gateway is known to be this vendor's, or no rule of the agent asks whose it is."""
        return not self._names_vendors or self._known.get(gateway) == vendor

    async def check(
        self, url: str, gateway: Pubkey, vendor: Pubkey, chain: ChainClient | None = None
    ) -> None:
        """Raises `GatewayMismatchError` unless `gateway` belongs to `vendor`, and `NotAllowedError` while that cannot
        be read, because a rule that cannot be kept allows nothing. `chain` is used in place of our own."""
        if self.is_known(gateway, vendor):
            return
        owner = self._known.get(gateway)
        if owner is None:
            owner = await self._owner(url, gateway, vendor, chain or self._chain)
            if len(self._known) < MAX_KNOWN:
                self._known[gateway] = owner
        if owner != vendor:
            raise GatewayMismatchError(
                url, f"it asks to pay vendor {vendor}, but gateway {gateway} belongs to {owner}"
            )

    async def _owner(self, url: str, gateway: Pubkey, vendor: Pubkey, chain: ChainClient | None) -> Pubkey:
        if chain is None:
            return vendor
        try:
            account = await chain.gateway(gateway)
        except ChainError as error:
            raise NotAllowedError(url, f"whose gateway {gateway} is cannot be read now: {error}") from error
        if account is None:
            raise GatewayMismatchError(url, f"gateway {gateway} is not registered on chain")
        return account.vendor
