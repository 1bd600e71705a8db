"""Cases: suspected fraud of agents and misbehaviour of gateways, with evidence, and who decided what about them."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from apps.core.fields import AtomicField, PubkeyField
from apps.payments.models.parties import AgentMirror, Gateway


class Case(models.Model):
    """One suspicion about one agent or gateway. `key` keeps the same finding from opening two cases.

    OPEN -> UPHELD | DISMISSED by a decision, or RESOLVED when its cause has gone by itself. `evidence` is what
    proves it: signed bytes, transactions and totals, complete enough to be judged without this database.
    """

    class Kind(models.TextChoices):
        EQUIVOCATION = "EQUIVOCATION", "one nonce signed for two gateways"
        INSOLVENCY = "INSOLVENCY", "charged beyond the bond"
        INVALID_SIGNATURE = "INVALID_SIGNATURE", "payment accepted without a valid signature"
        OVER_REPORTED = "OVER_REPORTED", "liability beyond what was authorised or receipted"
        SELECTIVE_DENIAL = "SELECTIVE_DENIAL", "valid payments refused"
        CLAIMED_AHEAD = "CLAIMED_AHEAD", "claimed on chain beyond the recorded charges"

    class Role(models.TextChoices):
        AGENT = "agent", "agent"
        GATEWAY = "gateway", "gateway"

    class Status(models.TextChoices):
        OPEN = "OPEN", "open"
        UPHELD = "UPHELD", "upheld"
        DISMISSED = "DISMISSED", "dismissed"
        RESOLVED = "RESOLVED", "resolved by itself"

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=20, choices=Kind.choices)
    role = models.CharField(max_length=8, choices=Role.choices)
    subject = PubkeyField(db_index=True, help_text="The agent or gateway.")
    key = models.CharField(max_length=200, unique=True, db_collation="C")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.OPEN)
    amount_atomic = AtomicField(default=0, help_text="What is at stake.")
    evidence = models.JSONField()
    opened_at = models.DateTimeField(db_default=Now())
    decided_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "payments_case"
        constraints = (
            models.CheckConstraint(
                condition=Q(status__in=["OPEN", "UPHELD", "DISMISSED", "RESOLVED"]),
                name="payments_case_status",
            ),
            models.CheckConstraint(condition=Q(role__in=["agent", "gateway"]), name="payments_case_role"),
            models.CheckConstraint(
                condition=Q(status="OPEN", decided_at__isnull=True)
                | (~Q(status="OPEN") & Q(decided_at__isnull=False)),
                name="payments_case_decision",
            ),
        )
        indexes = (models.Index(fields=["kind"], name="payments_case_open", condition=Q(status="OPEN")),)

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"


class CaseEntry(models.Model):
    """One line of a case's audit trail. The database lets nobody change or remove it."""

    class Action(models.TextChoices):
        OPENED = "OPENED", "opened"
        EVIDENCE = "EVIDENCE", "evidence added"
        SUSPENDED = "SUSPENDED", "agent suspended"
        SLASH_SENT = "SLASH_SENT", "proof sent to the chain"
        SLASHED = "SLASHED", "agent slashed"
        PENALISED = "PENALISED", "reputation reduced"
        BLACKLISTED = "BLACKLISTED", "gateway blacklisted"
        REINSTATED = "REINSTATED", "reinstated"
        UPHELD = "UPHELD", "upheld"
        DISMISSED = "DISMISSED", "dismissed"
        RESOLVED = "RESOLVED", "resolved by itself"

    id = models.BigAutoField(primary_key=True)
    case = models.ForeignKey(Case, models.PROTECT, related_name="entries")
    action = models.CharField(max_length=12, choices=Action.choices)
    by = models.CharField(
        max_length=254, help_text="A person's user name, or the part of the network that did it."
    )
    note = models.TextField(blank=True)
    data = models.JSONField(default=dict)
    at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_case_entry"
        verbose_name_plural = "case entries"

    def __str__(self) -> str:
        return f"{self.action} by {self.by}"


class Complaint(models.Model):
    """What an agent says a gateway did with one payment it signed, with the gateway's receipt where there is one."""

    class Kind(models.TextChoices):
        DENIED = "DENIED", "a valid payment was refused or not served"
        OVERCHARGED = "OVERCHARGED", "more was charged than the receipt says"

    class Verdict(models.TextChoices):
        NOTED = "NOTED", "counts once others say the same"
        PROVEN = "PROVEN", "proven by the gateway's own receipt"
        REFUTED = "REFUTED", "contradicted by what is stored"

    id = models.BigAutoField(primary_key=True)
    agent = models.ForeignKey(AgentMirror, models.PROTECT, related_name="complaints", db_column="agent")
    gateway = models.ForeignKey(Gateway, models.PROTECT, related_name="complaints", db_column="gateway")
    kind = models.CharField(max_length=12, choices=Kind.choices)
    verdict = models.CharField(max_length=8, choices=Verdict.choices)
    digest = models.BinaryField(max_length=32)
    evidence = models.JSONField()
    detail = models.CharField(max_length=500, blank=True)
    case = models.ForeignKey(Case, models.PROTECT, null=True, related_name="complaints")
    received_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "payments_complaint"
        constraints = (
            models.UniqueConstraint(fields=["agent", "digest", "kind"], name="payments_complaint_once"),
            models.CheckConstraint(
                condition=Q(kind__in=["DENIED", "OVERCHARGED"])
                & Q(verdict__in=["NOTED", "PROVEN", "REFUTED"]),
                name="payments_complaint_words",
            ),
        )
        indexes = (models.Index(fields=["gateway", "received_at"], name="payments_complaint_recent"),)

    def __str__(self) -> str:
        return f"{self.kind} by {self.agent_id}"
