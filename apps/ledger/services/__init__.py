"""The ledger's verbs: move money, set it aside, give it back."""

from apps.ledger.services.holds import expire, reserve, void
from apps.ledger.services.post import post

__all__ = ["expire", "post", "reserve", "void"]
