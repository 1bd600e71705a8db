"""Aggregation proposals: settle many channels of one agent with one more signature of its own."""

import uuid

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField
from apps.payments.models.channels import Channel
from apps.payments.models.parties import AgentMirror
from apps.payments.models.settlements import Settlement


class Cosigner(models.Model):
    """An agent that asks for proposals. Only such agents get any: for the others waiting would be in vain."""

    agent = models.OneToOneField(
        AgentMirror, models.CASCADE, primary_key=True, related_name="cosigner", db_column="agent"
    )
    asked_at = models.DateTimeField()

    class Meta:
        db_table = "payments_cosigner"

    def __str__(self) -> str:
        return self.agent_id


class Aggregation(models.Model):
    """One proposal. PROPOSED -> SIGNED -> SENT -> SETTLED, or EXPIRED, or FAILED: then its channels are settled one by
    one. One is open per agent at a time."""

    class State(models.TextChoices):
        PROPOSED = "PROPOSED", "waits for the agent"
        SIGNED = "SIGNED", "signed by the agent"
        SENT = "SENT", "its transaction is under way"
        SETTLED = "SETTLED", "final"
        EXPIRED = "EXPIRED", "not signed in time, or overtaken"
        FAILED = "FAILED", "its transaction had no effect"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    agent = models.ForeignKey(AgentMirror, models.PROTECT, related_name="aggregations", db_column="agent")
    state = models.CharField(max_length=10, choices=State.choices, default=State.PROPOSED)
    amount_atomic = AtomicField(help_text="What it takes from the bond at most.")
    signature = models.BinaryField(max_length=64, null=True)
    settlement = models.OneToOneField(Settlement, models.PROTECT, null=True, related_name="aggregation")
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    signed_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "payments_aggregation"
        constraints = (
            models.CheckConstraint(
                condition=Q(state__in=["PROPOSED", "EXPIRED"])
                | Q(state="SIGNED", signature__isnull=False, settlement__isnull=True)
                | Q(
                    state__in=["SENT", "SETTLED", "FAILED"],
                    signature__isnull=False,
                    settlement__isnull=False,
                ),
                name="payments_aggregation_state",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["SETTLED", "EXPIRED", "FAILED"], ended_at__isnull=False)
                | (~Q(state__in=["SETTLED", "EXPIRED", "FAILED"]) & Q(ended_at__isnull=True)),
                name="payments_aggregation_end",
            ),
            models.CheckConstraint(condition=Q(amount_atomic__gt=0), name="payments_aggregation_amount"),
            models.UniqueConstraint(
                fields=["agent"],
                name="payments_aggregation_one_open",
                condition=Q(state__in=["PROPOSED", "SIGNED", "SENT"]),
            ),
        )

    def __str__(self) -> str:
        return str(self.id)


class AggregationItem(models.Model):
    """One channel of a proposal: settle up to `cumulative_atomic`, what was charged, which the agent's own voucher over
    `voucher_atomic` covers."""

    id = models.BigAutoField(primary_key=True)
    aggregation = models.ForeignKey(Aggregation, models.CASCADE, related_name="items")
    channel = models.ForeignKey(
        Channel, models.PROTECT, related_name="aggregation_items", db_column="channel"
    )
    cumulative_atomic = AtomicField()
    settled_before_atomic = AtomicField()
    voucher_atomic = AtomicField()
    context = models.BinaryField(max_length=16)
    signature = models.BinaryField(max_length=64)

    class Meta:
        db_table = "payments_aggregation_item"
        constraints = (
            models.UniqueConstraint(fields=["aggregation", "channel"], name="payments_aggregation_item_once"),
            models.CheckConstraint(
                condition=Q(cumulative_atomic__gt=F("settled_before_atomic"))
                & Q(settled_before_atomic__gte=0)
                & Q(voucher_atomic__gte=F("cumulative_atomic")),
                name="payments_aggregation_item_covered",
            ),
        )

    def __str__(self) -> str:
        return f"{self.channel_id} to {self.cumulative_atomic}"
