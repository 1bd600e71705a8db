"""The custodial wallet: deposits into it, and whether it holds what the ledger says."""

from apps.settlement.services.custody.deposits import sync_deposits
from apps.settlement.services.custody.reconcile import CustodyTerm, compare_custody
from apps.settlement.services.custody.wallet import custodial_wallet, ensure_wallet

__all__ = ["CustodyTerm", "compare_custody", "custodial_wallet", "ensure_wallet", "sync_deposits"]
