"""The rows of the payments app, by subject."""

from apps.payments.models.aggregations import Aggregation, AggregationItem, Cosigner
from apps.payments.models.batches import Batch, BatchArchive, BatchLeaf, UnbatchedPayment
from apps.payments.models.cases import Case, CaseEntry, Complaint
from apps.payments.models.chain_events import (
    ChainEvent,
    ChainIndex,
    ChainTransaction,
    Reconciliation,
    VendorMirror,
)
from apps.payments.models.channels import Channel
from apps.payments.models.custody import CustodialDeposit, CustodialPayment, CustodyCursor, DepositReference
from apps.payments.models.hosted import HostedReceipt
from apps.payments.models.intents import INTENT_PARTITIONS, Equivocation, FraudScan, PaymentIntent
from apps.payments.models.leases import Lease
from apps.payments.models.lookup_tables import LookupTable, LookupTableEntry
from apps.payments.models.network import ChainCursor, Network
from apps.payments.models.parties import AgentMirror, Gateway
from apps.payments.models.reversals import Reversal
from apps.payments.models.rules import (
    AgentChange,
    AgentDay,
    ChainConfig,
    EnforcementEvent,
    NetworkRules,
    RelayerPulse,
)
from apps.payments.models.settlements import Settlement, SettlementItem
from apps.payments.models.transactions import Transaction

__all__ = [
    "INTENT_PARTITIONS",
    "AgentChange",
    "AgentDay",
    "AgentMirror",
    "Aggregation",
    "AggregationItem",
    "Batch",
    "BatchArchive",
    "BatchLeaf",
    "Case",
    "CaseEntry",
    "ChainConfig",
    "ChainCursor",
    "ChainEvent",
    "ChainIndex",
    "ChainTransaction",
    "Channel",
    "Complaint",
    "Cosigner",
    "CustodialDeposit",
    "CustodialPayment",
    "CustodyCursor",
    "DepositReference",
    "EnforcementEvent",
    "Equivocation",
    "FraudScan",
    "Gateway",
    "HostedReceipt",
    "Lease",
    "LookupTable",
    "LookupTableEntry",
    "Network",
    "NetworkRules",
    "PaymentIntent",
    "Reconciliation",
    "RelayerPulse",
    "Reversal",
    "Settlement",
    "SettlementItem",
    "Transaction",
    "UnbatchedPayment",
    "VendorMirror",
]
