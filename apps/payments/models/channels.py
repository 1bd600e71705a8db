"""The channel: one agent paying one gateway."""

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField, PubkeyField
from apps.payments.models.parties import AgentMirror, Gateway


class Channel(models.Model):
    """Running totals of a channel, off-chain and on-chain.

    `highest_*` is H, the highest voucher seen: its cumulative, context and signature. `charged_total_atomic`
    sums the charges of stored intents. `settled_atomic` and what follows mirror the chain at finalised slot
    `slot`; `slot` 0 means that the chain has no such account yet. `credited_atomic` is what the ledger has posted as
    earned: max(charged, settled), since a claim may be ahead of the recorded charges. `uncollected_atomic` of it was
    reversed because no bond covered it, and is still not paid.
    """

    address = PubkeyField(primary_key=True)
    agent = models.ForeignKey(AgentMirror, models.PROTECT, related_name="channels", db_column="agent")
    gateway = models.ForeignKey(Gateway, models.PROTECT, related_name="channels", db_column="gateway")
    vendor = PubkeyField()
    highest_cumulative_atomic = AtomicField(default=0)
    highest_context = models.BinaryField(max_length=16, null=True)
    highest_signature = models.BinaryField(max_length=64, null=True)
    charged_total_atomic = AtomicField(default=0)
    charged_count = models.BigIntegerField(default=0)
    void_count = models.BigIntegerField(default=0)
    credited_atomic = AtomicField(default=0)
    uncollected_atomic = AtomicField(default=0)
    settled_atomic = AtomicField(default=0)
    owed_atomic = AtomicField(default=0)
    claim_cumulative_atomic = AtomicField(default=0)
    claim_unlock = models.BigIntegerField(default=0, help_text="Unix seconds.")
    slot = models.BigIntegerField(default=0)
    first_payment_at = models.DateTimeField(null=True)
    last_payment_at = models.DateTimeField(null=True)
    unsettled_since = models.DateTimeField(
        null=True, help_text="When the oldest unsettled charge was stored."
    )
    in_flight = models.ForeignKey(
        "payments.Settlement",
        models.PROTECT,
        null=True,
        related_name="+",
        db_index=False,
        help_text="The settlement that is under way; the channel is not planned again before it ends.",
    )
    settle_failures = models.SmallIntegerField(default=0)
    settle_after = models.DateTimeField(null=True, help_text="Not planned before this time, after a failure.")
    first_seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_channel"
        constraints = (
            models.UniqueConstraint(fields=["agent", "gateway"], name="payments_channel_pair"),
            models.CheckConstraint(
                condition=Q(highest_cumulative_atomic__gte=0)
                & Q(charged_total_atomic__gte=0)
                & Q(settled_atomic__gte=0)
                & Q(owed_atomic__gte=0)
                & Q(owed_atomic__lte=F("settled_atomic"))
                & Q(charged_count__gte=0)
                & Q(void_count__gte=0),
                name="payments_channel_amounts",
            ),
            models.CheckConstraint(
                condition=Q(credited_atomic__gte=F("charged_total_atomic"))
                & Q(credited_atomic__gte=F("settled_atomic")),
                name="payments_channel_credit_covers",
            ),
            models.CheckConstraint(
                condition=Q(uncollected_atomic__gte=0)
                & Q(credited_atomic__gte=F("settled_atomic") + F("uncollected_atomic")),
                name="payments_channel_uncollected",
            ),
            models.CheckConstraint(
                condition=Q(highest_cumulative_atomic=0)
                | Q(highest_context__isnull=False, highest_signature__isnull=False),
                name="payments_channel_voucher_complete",
            ),
        )
        indexes = (
            models.Index(
                fields=["unsettled_since"],
                name="payments_channel_due",
                condition=Q(in_flight__isnull=True, unsettled_since__isnull=False),
            ),
            models.Index(
                fields=["agent"],
                name="payments_channel_unsettled",
                condition=Q(unsettled_since__isnull=False),
            ),
            models.Index(
                fields=["agent"],
                name="payments_channel_reversed",
                condition=Q(uncollected_atomic__gt=0),
            ),
            models.Index(fields=["vendor"], name="payments_channel_owed", condition=Q(owed_atomic__gt=0)),
            models.Index(
                fields=["in_flight"], name="payments_channel_in_flight", condition=Q(in_flight__isnull=False)
            ),
        )

    def __str__(self) -> str:
        return self.address
