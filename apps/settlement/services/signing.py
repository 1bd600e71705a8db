"""What recon's transactions are signed with, all read from the chain before any row is locked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

from django.conf import settings
from solders.compute_budget import set_compute_unit_limit, set_compute_unit_price
from solders.hash import Hash
from solders.instruction import Instruction
from solders.keypair import Keypair

from apps.settlement.chain import ChainSession, relayer_keypair
from apps.settlement.errors import SettlementPaused
from machpay.chain.accounts import GlobalBond
from machpay.chain.lookup_tables import LookupTable
from machpay.chain.network import Network
from machpay.chain.transactions import SignedTransaction, sign_transaction

# Micro-lamports a unit when blocks are not full: 80 lamports for 80,000 units, beside 5,000 for each signature.
COMPUTE_UNIT_PRICE_MIN: Final = 1_000


@dataclass(frozen=True, slots=True)
class Signing:
    """The relayer's key, which the chain has agreed to, the mint's finalised configuration, the price of a compute
    unit, and a recent block hash."""

    network: Network
    relayer: Keypair
    bond: GlobalBond
    unit_price: int
    blockhash: Hash
    last_valid_block_height: int

    @classmethod
    def prepare(cls, chain: ChainSession) -> Self:
        """Read all of it. Raises `SettlementPaused` if this process does not hold the relayer's key,
        `RpcUnavailable`."""
        relayer = relayer_keypair()
        bond = chain.run(chain.client.bond("finalized"))
        if bond is None:
            raise SettlementPaused("the program is not initialised for this mint")
        if bond.relayer != relayer.pubkey():
            raise SettlementPaused(
                f"the chain's relayer is {bond.relayer}, RELAYER_KEYPAIR holds {relayer.pubkey()}"
            )
        unit_price = chain.run(
            chain.client.priority_price(
                [chain.network.vault()], least=COMPUTE_UNIT_PRICE_MIN, most=settings.PRIORITY_PRICE_MAX
            )
        )
        blockhash, height = chain.run(chain.client.latest_blockhash())
        return cls(chain.network, relayer, bond, unit_price, blockhash, height)

    def renewed(self, chain: ChainSession) -> Self:
        """The same with a newer block hash."""
        blockhash, height = chain.run(chain.client.latest_blockhash())
        return replace(self, blockhash=blockhash, last_valid_block_height=height)

    def sign(
        self,
        instructions: Sequence[Instruction],
        *,
        compute_units: int,
        lookup_tables: Sequence[LookupTable] = (),
    ) -> SignedTransaction:
        """A transaction of the relayer's. Raises `ValueError` if it does not fit 1,232 bytes."""
        budget = [set_compute_unit_limit(compute_units), set_compute_unit_price(self.unit_price)]
        return sign_transaction(
            [*budget, *instructions],
            payer=self.relayer,
            signers=[],
            blockhash=self.blockhash,
            last_valid_block_height=self.last_valid_block_height,
            lookup_tables=lookup_tables,
        )
