"""What the facilitator keeps beside intents: the newest receipt of each channel of a hosted gateway."""

from django.db import models
from django.db.models import F, Q

from apps.core.fields import AtomicField
from apps.payments.models.channels import Channel


class HostedReceipt(models.Model):
    """The last receipt that the facilitator signed in a channel: a client that lost its state asks for it, and the
    intent it belongs to may be archived by then. Replaced with every charge, in the charge's transaction."""

    channel = models.OneToOneField(Channel, models.PROTECT, primary_key=True, db_column="channel")
    digest = models.BinaryField(max_length=32)
    http_status = models.IntegerField()
    charged_atomic = AtomicField()
    served_total_atomic = AtomicField()
    time = models.BigIntegerField(help_text="Unix seconds.")
    signature = models.BinaryField(max_length=64)

    class Meta:
        db_table = "payments_hosted_receipt"
        constraints = (
            models.CheckConstraint(
                condition=Q(charged_atomic__gt=0) & Q(charged_atomic__lte=F("served_total_atomic")),
                name="payments_hosted_receipt_charge",
            ),
        )

    def __str__(self) -> str:
        return self.channel_id
