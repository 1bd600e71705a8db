"""What the demo shows and checks, read independently: tables by SQL, the chain by RPC.

It does not use the services that wrote those rows, so a mistake in them cannot hide itself here.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from solders.pubkey import Pubkey

from devnet.network import LocalNetwork
from devnet.offers import OFFERS
from machpay.chain import tokens
from machpay.chain.client import ChainClient


@dataclass(frozen=True, slots=True)
class Figures:
    """Totals of the whole network since its genesis, in atomic units."""

    unsettled_atomic: int
    settled_atomic: int
    settlements: int
    last_signature: str | None


@dataclass(frozen=True, slots=True)
class VendorLine:
    """One vendor. `charged_atomic` and `receipts_atomic` are those of this run."""

    title: str
    on_chain_atomic: int
    ledger_settled_atomic: int
    unsettled_atomic: int
    charged_atomic: int
    receipts_atomic: int

    @property
    def agrees(self) -> bool:
        return (
            self.on_chain_atomic == self.ledger_settled_atomic
            and self.unsettled_atomic == 0
            and self.charged_atomic == self.receipts_atomic
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """The finalised chain at `slot` beside the ledger. The vault holds the bonds, as nothing is owed in the demo."""

    slot: int
    vendors: tuple[VendorLine, ...]
    vault_atomic: int
    ledger_bonds_atomic: int
    trial_balance_atomic: int

    @property
    def vault_agrees(self) -> bool:
        return self.vault_atomic == self.ledger_bonds_atomic and self.trial_balance_atomic == 0

    @property
    def agrees(self) -> bool:
        return self.vault_agrees and all(line.agrees for line in self.vendors)


_TOTALS = """
SELECT coalesce((SELECT sum(balance_atomic) FROM ledger_account WHERE kind = 'unsettled'), 0)::bigint,
       coalesce((SELECT sum(balance_atomic) FROM ledger_account WHERE kind = 'settled'), 0)::bigint,
       (SELECT count(*) FROM payments_settlement WHERE state = 'FINALIZED'),
       (SELECT signature FROM payments_settlement WHERE state IN ('CONFIRMED', 'FINALIZED') ORDER BY id DESC LIMIT 1)
"""
_LEDGER = """
SELECT kind, owner, sum(balance_atomic)::bigint FROM ledger_account
WHERE kind IN ('bond', 'settled', 'unsettled') GROUP BY kind, owner
"""
_CHARGED = "SELECT gateway, sum(charged_total_atomic)::bigint FROM payments_channel GROUP BY gateway"


class FiguresReader:
    """Reads while the network runs. The charges that were there at its creation are the baseline of this run."""

    def __init__(self, network: LocalNetwork) -> None:
        self._network = network
        self._connection: psycopg.Connection[Any] | None = None
        self._baseline = self._charged()

    @property
    def _database(self) -> psycopg.Connection[Any]:
        """The connection; a new one if the server ended the last."""
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._network.services.database_url, autocommit=True)
        return self._connection

    def read(self) -> Figures:
        row = self._database.execute(_TOTALS).fetchone()
        assert row is not None
        return Figures(*row)

    def compare(self, receipts_atomic: Mapping[str, int]) -> Comparison:
        """`receipts_atomic` is what agents hold receipts for in this run, by gateway."""
        ledger = {(kind, owner): amount for kind, owner, amount in self._database.execute(_LEDGER)}
        trial_row = self._database.execute(
            "SELECT coalesce(sum(balance_atomic), 0)::bigint FROM ledger_account"
        ).fetchone()
        assert trial_row is not None
        charged = self._charged()
        slot, balances, vault = asyncio.run(self._chain_balances())
        lines = []
        for offer in OFFERS:
            vendor = self._network.keys.get(f"vendor-{offer.vendor}").pubkey
            gateway = self._network.keys.get(offer.gateway).pubkey
            lines.append(
                VendorLine(
                    title=offer.title,
                    on_chain_atomic=balances[vendor],
                    ledger_settled_atomic=ledger.get(("settled", vendor), 0),
                    unsettled_atomic=ledger.get(("unsettled", vendor), 0),
                    charged_atomic=charged.get(gateway, 0) - self._baseline.get(gateway, 0),
                    receipts_atomic=receipts_atomic.get(gateway, 0),
                )
            )
        return Comparison(
            slot=slot,
            vendors=tuple(lines),
            vault_atomic=vault,
            ledger_bonds_atomic=sum(amount for (kind, _), amount in ledger.items() if kind == "bond"),
            trial_balance_atomic=trial_row[0],
        )

    def _charged(self) -> dict[str, int]:
        return {gateway: int(amount) for gateway, amount in self._database.execute(_CHARGED)}

    async def _chain_balances(self) -> tuple[int, dict[str, int], int]:
        network = self._network.network
        assert network is not None
        async with ChainClient(self._network.url("chain"), network) as chain:
            slot = await chain.slot("finalized")
            balances = {}
            for offer in OFFERS:
                vendor: Pubkey = self._network.keys.get(f"vendor-{offer.vendor}").public
                wallet = tokens.associated_token_address(vendor, network.mint)
                balances[str(vendor)] = await chain.token_balance(wallet, "finalized")
            return slot, balances, await chain.token_balance(network.vault(), "finalized")
