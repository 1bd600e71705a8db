"""The rows of the payments app, by subject."""

from apps.payments.models.channels import Channel
from apps.payments.models.intents import INTENT_PARTITIONS, Equivocation, PaymentIntent
from apps.payments.models.lookup_tables import LookupTable, LookupTableEntry
from apps.payments.models.network import ChainCursor, Network
from apps.payments.models.parties import AgentMirror, Gateway
from apps.payments.models.settlements import Settlement, SettlementItem

__all__ = [
    "INTENT_PARTITIONS",
    "AgentMirror",
    "ChainCursor",
    "Channel",
    "Equivocation",
    "Gateway",
    "LookupTable",
    "LookupTableEntry",
    "Network",
    "PaymentIntent",
    "Settlement",
    "SettlementItem",
]
