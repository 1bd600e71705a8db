"""Carrying payouts out: sign and store, send, follow to finality."""

from apps.settlement.services.payouts.follow import follow_payouts
from apps.settlement.services.payouts.pay import pay_payouts

__all__ = ["follow_payouts", "pay_payouts"]
