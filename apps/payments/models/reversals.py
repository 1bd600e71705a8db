"""Credit that was taken back because the agent's bond did not cover it."""

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField, PubkeyField
from apps.payments.models.channels import Channel


class Reversal(models.Model):
    """`amount_atomic` of a channel's credit became uncollected; `collected_atomic` of it was paid later. The channel's
    `uncollected_atomic` is the sum of what is left of its reversals."""

    id = models.BigAutoField(primary_key=True)
    channel = models.ForeignKey(Channel, models.PROTECT, related_name="reversals", db_column="channel")
    agent = PubkeyField(db_index=True)
    gateway = PubkeyField()
    vendor = PubkeyField(db_index=True)
    amount_atomic = AtomicField()
    collected_atomic = AtomicField(default=0)
    settled_atomic = AtomicField(help_text="The channel's watermark when it was reversed.")
    intents = models.IntegerField(help_text="How many intents became REVERSED.")
    reversed_at = models.DateTimeField(db_default=Now())
    collected_at = models.DateTimeField(null=True, help_text="When all of it had been paid after all.")

    class Meta:
        db_table = "payments_reversal"
        constraints = (
            models.CheckConstraint(
                condition=Q(amount_atomic__gt=0)
                & Q(collected_atomic__gte=0)
                & Q(collected_atomic__lte=F("amount_atomic")),
                name="payments_reversal_amounts",
            ),
            models.CheckConstraint(
                condition=Q(collected_at__isnull=True) | Q(collected_atomic=F("amount_atomic")),
                name="payments_reversal_collected",
            ),
        )
        indexes = (
            models.Index(
                fields=["channel"], name="payments_reversal_open", condition=Q(collected_at__isnull=True)
            ),
        )

    def __str__(self) -> str:
        return f"{self.amount_atomic} of {self.channel_id}"
