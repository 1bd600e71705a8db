"""What people and the chain decide about spending, how it is told, and the record of who decided."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField, PubkeyField


class NetworkRules(models.Model):
    """The network's own rules; one row. `cap_atomic` bounds what one agent may owe all gateways together in optimistic
    mode (None: its bond only); `halted` is the kill switch of the whole network."""

    class Mode(models.TextChoices):
        LEASE = "lease", "leases"
        OPTIMISTIC = "optimistic", "optimistic"

    id = models.SmallIntegerField(primary_key=True, default=1)
    mode = models.CharField(max_length=10, choices=Mode.choices, default=Mode.LEASE)
    cap_atomic = AtomicField(null=True)
    halted = models.BooleanField(default=False)

    class Meta:
        db_table = "payments_rules"
        verbose_name = verbose_name_plural = "network rules"
        constraints = (
            models.CheckConstraint(condition=Q(id=1), name="payments_rules_single"),
            models.CheckConstraint(condition=Q(mode__in=["lease", "optimistic"]), name="payments_rules_mode"),
            models.CheckConstraint(
                condition=Q(cap_atomic__isnull=True) | Q(cap_atomic__gte=0), name="payments_rules_cap"
            ),
        )

    def __str__(self) -> str:
        return f"{self.mode} mode"


class ChainConfig(models.Model):
    """The bond's configuration on chain at finalised slot `slot`, as far as leases depend on it; one row."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    min_bond_atomic = AtomicField()
    timelock_s = models.BigIntegerField()
    claim_delay_s = models.BigIntegerField()
    slot = models.BigIntegerField()

    class Meta:
        db_table = "payments_chain_config"
        constraints = (
            models.CheckConstraint(condition=Q(id=1), name="payments_chain_config_single"),
            models.CheckConstraint(
                condition=Q(min_bond_atomic__gte=0), name="payments_chain_config_min_bond"
            ),
        )

    def __str__(self) -> str:
        return f"configuration at slot {self.slot}"


class RelayerPulse(models.Model):
    """Since when gateways can deliver; one row. While no relayer answers, no lease's grace ends, and after an absence
    gateways get all of it to deliver what they charged meanwhile."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    up_since = models.DateTimeField()
    last_at = models.DateTimeField()

    class Meta:
        db_table = "payments_relayer_pulse"
        constraints = (models.CheckConstraint(condition=Q(id=1), name="payments_relayer_pulse_single"),)

    def __str__(self) -> str:
        return f"up since {self.up_since}"


class AgentDay(models.Model):
    """What one agent was charged on one day (UTC, by the time inside the nonce)."""

    pk = models.CompositePrimaryKey("agent", "day")
    agent = PubkeyField()
    day = models.DateField()
    charged_atomic = AtomicField()

    class Meta:
        db_table = "payments_agent_day"
        constraints = (
            models.CheckConstraint(condition=Q(charged_atomic__gte=0), name="payments_agent_day_charged"),
        )

    def __str__(self) -> str:
        return f"{self.agent} on {self.day}"


class AgentChange(models.Model):
    """One entry of the change stream: something about `agent` changed (blank: the network's rules).

    The table also has `xid`, the transaction that wrote the entry, which only PostgreSQL reads: entries become visible
    in the order of commits, not of their ids, and readers continue by what was visible to them.
    """

    id = models.BigAutoField(primary_key=True)
    agent = PubkeyField(blank=True)
    noted_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        db_table = "payments_agent_change"

    def __str__(self) -> str:
        return self.agent or "rules"


class EnforcementEvent(models.Model):
    """Who changed what an agent (blank: everybody) may do, and why. Never changed or deleted."""

    class Action(models.TextChoices):
        STATUS = "STATUS", "status"
        LIMITS = "LIMITS", "limits"
        KILL_SWITCH = "KILL_SWITCH", "kill switch"
        RULES = "RULES", "network rules"
        ALARM = "ALARM", "alarm from the chain"

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(db_default=Now())
    agent = PubkeyField(blank=True, db_index=True)
    action = models.CharField(max_length=12, choices=Action.choices, db_collation="C")
    before = models.JSONField()
    after = models.JSONField()
    reason = models.CharField(max_length=300)
    by = models.CharField(max_length=150, help_text="A person's username, or the part of the system.")
    leases_revoked = models.IntegerField(default=0)

    class Meta:
        db_table = "payments_enforcement"
        constraints = (
            models.CheckConstraint(
                condition=Q(action__in=["STATUS", "LIMITS", "KILL_SWITCH", "RULES", "ALARM"]),
                name="payments_enforcement_action",
            ),
        )

    def __str__(self) -> str:
        return f"{self.action} of {self.agent or 'the network'} by {self.by}"
