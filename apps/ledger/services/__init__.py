"""The ledger's one verb."""

from apps.ledger.services.post import post

__all__ = ["post"]
