"""Gateways and agents as the network knows them: what the chain says, and what operators decided."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField, PubkeyField


class Gateway(models.Model):
    """A gateway that exists on chain. `vendor` never changes: the chain does not let it."""

    class Status(models.TextChoices):
        UNKNOWN = "UNKNOWN", "never reported"
        UP = "UP", "reporting"
        DOWN = "DOWN", "silent"

    pubkey = PubkeyField(primary_key=True)
    vendor = PubkeyField(db_index=True)
    revoked = models.BooleanField(default=False)
    status = models.CharField(max_length=8, choices=Status.choices, default=Status.UNKNOWN)
    url = models.CharField(max_length=300, blank=True)
    version = models.CharField(max_length=40, blank=True)
    uptime_seconds = models.BigIntegerField(default=0)
    stats = models.JSONField(default=dict)
    log_seq = models.BigIntegerField(default=0, help_text="Last log position the gateway reported.")
    delivered_seq = models.BigIntegerField(default=0, help_text="Log position up to which all was stored.")
    last_heartbeat_at = models.DateTimeField(null=True)
    penalty_points = models.IntegerField(
        default=0, help_text="Of all upheld cases; reputation is reduced by them."
    )
    blacklisted_at = models.DateTimeField(null=True)
    first_seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_gateway"
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=["UNKNOWN", "UP", "DOWN"]), name="payments_gateway_status"
            ),
            models.CheckConstraint(condition=Q(penalty_points__gte=0), name="payments_gateway_penalty"),
        )

    def __str__(self) -> str:
        return self.pubkey


class AgentMirror(models.Model):
    """An agent: its bond account at finalised slot `slot`, and the limits and status the network enforces.

    `slot` 0 means the chain was not asked yet. `deposits_posted_atomic` is how much of
    `deposited_total_atomic` the ledger has; only `services.chain_mirror` raises it, together with the ledger.
    `stopped` is the agent's kill switch. Nothing is leased before the mirror has reached `held_until_slot`;
    what was charged around `settle_urgently_since` is settled without waiting for more. `sweep` is the newest
    transaction that pays out what vendors left of a forfeited bond.
    """

    class Status(models.TextChoices):
        ACTIVE = "ACTIVE", "active"
        SUSPENDED = "SUSPENDED", "suspended"
        SLASHED = "SLASHED", "slashed"

    agent = PubkeyField(primary_key=True)
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.ACTIVE)
    limit_per_call_atomic = AtomicField(null=True)
    limit_per_day_atomic = AtomicField(null=True)
    owner = PubkeyField(blank=True)
    bond_atomic = AtomicField(default=0)
    open_claims_atomic = AtomicField(default=0)
    pending_withdrawal_atomic = AtomicField(default=0)
    withdrawal_unlock = models.BigIntegerField(default=0, help_text="Unix seconds.")
    forfeited_atomic = AtomicField(default=0)
    window_end = models.BigIntegerField(default=0, help_text="Unix seconds; set when slashed.")
    deposited_total_atomic = AtomicField(default=0)
    paid_total_atomic = AtomicField(default=0)
    withdrawn_total_atomic = AtomicField(default=0)
    swept_total_atomic = AtomicField(default=0)
    deposits_posted_atomic = AtomicField(default=0)
    stopped = models.BooleanField(default=False)
    held_until_slot = models.BigIntegerField(default=0)
    settle_urgently_since = models.DateTimeField(null=True)
    sweep = models.ForeignKey("payments.Settlement", models.PROTECT, null=True, related_name="sweeps")
    slot = models.BigIntegerField(default=0)
    first_seen_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_agent"
        verbose_name = "agent"
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=["ACTIVE", "SUSPENDED", "SLASHED"]), name="payments_agent_status"
            ),
            models.CheckConstraint(
                condition=Q(bond_atomic__gte=0)
                & Q(open_claims_atomic__gte=0)
                & Q(pending_withdrawal_atomic__gte=0)
                & Q(forfeited_atomic__gte=0),
                name="payments_agent_amounts",
            ),
            models.CheckConstraint(
                condition=Q(limit_per_call_atomic__isnull=True) | Q(limit_per_call_atomic__gte=0),
                name="payments_agent_limit_per_call",
            ),
            models.CheckConstraint(
                condition=Q(limit_per_day_atomic__isnull=True) | Q(limit_per_day_atomic__gte=0),
                name="payments_agent_limit_per_day",
            ),
        )

    def __str__(self) -> str:
        return self.agent
