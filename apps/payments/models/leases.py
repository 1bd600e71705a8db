"""Leases: parts of bonds set aside for one gateway each."""

import uuid

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField
from apps.payments.models.channels import Channel
from apps.payments.models.parties import AgentMirror, Gateway


class Lease(models.Model):
    """One lease of one channel. It covers the channel's charges from `from_atomic` to `up_to_atomic`, both totals of
    charges; the gateway stops at `expires_at`, and the bond is free again at `frees_at`.

    LIVE leases count against the bond, also when they are revoked or past their end: the gateway may have charges to
    deliver. `ended_total_atomic` is the channel's total of charges when the lease stopped counting.
    """

    class State(models.TextChoices):
        LIVE = "LIVE", "counts against the bond"
        RELEASED = "RELEASED", "given back by the gateway"
        EXPIRED = "EXPIRED", "freed after its end and grace"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    channel = models.ForeignKey(Channel, models.PROTECT, related_name="leases", db_column="channel")
    agent = models.ForeignKey(AgentMirror, models.PROTECT, related_name="leases", db_column="agent")
    gateway = models.ForeignKey(Gateway, models.PROTECT, related_name="leases", db_column="gateway")
    state = models.CharField(max_length=8, choices=State.choices, default=State.LIVE, db_collation="C")
    from_atomic = AtomicField()
    up_to_atomic = AtomicField()
    granted_at = models.DateTimeField(db_default=Now())
    renewed_at = models.DateTimeField(null=True)
    renewals = models.IntegerField(default=0)
    expires_at = models.DateTimeField()
    frees_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    revoked_reason = models.CharField(max_length=40, blank=True)
    ended_at = models.DateTimeField(null=True)
    ended_total_atomic = AtomicField(null=True)

    class Meta:
        db_table = "payments_lease"
        constraints = (
            models.CheckConstraint(
                condition=Q(state__in=["LIVE", "RELEASED", "EXPIRED"]), name="payments_lease_state"
            ),
            models.CheckConstraint(
                condition=Q(from_atomic__gte=0) & Q(up_to_atomic__gte=F("from_atomic")),
                name="payments_lease_amounts",
            ),
            models.CheckConstraint(
                condition=Q(frees_at__gte=F("expires_at")), name="payments_lease_grace_follows_end"
            ),
            models.CheckConstraint(
                condition=Q(state="LIVE", ended_at__isnull=True, ended_total_atomic__isnull=True)
                | (~Q(state="LIVE") & Q(ended_at__isnull=False, ended_total_atomic__gte=F("from_atomic"))),
                name="payments_lease_end_complete",
            ),
            models.UniqueConstraint(
                fields=["channel"], name="payments_lease_one_per_channel", condition=Q(state="LIVE")
            ),
        )
        indexes = (
            models.Index(fields=["frees_at"], name="payments_lease_to_free", condition=Q(state="LIVE")),
            models.Index(fields=["agent"], name="payments_lease_live", condition=Q(state="LIVE")),
            models.Index(fields=["ended_at"], name="payments_lease_ended", condition=~Q(state="LIVE")),
        )

    def __str__(self) -> str:
        return str(self.id)
