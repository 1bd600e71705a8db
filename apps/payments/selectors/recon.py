"""What recon has under way and what waits for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, F, Min, Q, Sum
from django.db.models.functions import Least

from apps.payments.models import (
    AgentMirror,
    Aggregation,
    Batch,
    ChainCursor,
    Channel,
    Equivocation,
    Settlement,
    UnbatchedPayment,
)
from apps.payments.selectors.due import DuePolicy, due_channels, urgent

State = Settlement.State


@dataclass(frozen=True, slots=True)
class Progress:
    """How far some settlements are. `ended` are final with their effect in the books, or failed."""

    settlements: int
    channels: int
    final: int
    failed: int
    under_way: int
    paid_atomic: int

    @property
    def ended(self) -> int:
        return self.final + self.failed


@dataclass(frozen=True, slots=True)
class Status:
    """Recon at a glance. Amounts are atomic units; `oldest_*` are times, None where there is nothing."""

    slot: int
    unsettled_channels: int
    unsettled_atomic: int
    oldest_unsettled: datetime | None
    due_channels: int
    urgent_channels: int
    waiting_channels: int
    failing_channels: int
    owed_channels: int
    owed_atomic: int
    open: dict[str, int]
    oldest_open: datetime | None
    unapplied: int
    proposals: dict[str, int]
    open_equivocations: int
    suspended_agents: int
    unbatched_payments: int
    batches: int
    open_batch: int | None
    last_batch_at: datetime | None


def progress_of(ids: Sequence[int]) -> Progress:
    """The settlements with these ids together."""
    final = Q(state=State.FINALIZED, paid_atomic__isnull=False)
    failed = Q(state=State.FAILED)
    found = Settlement.objects.filter(id__in=ids).aggregate(
        settlements=Count("id"),
        channels=Sum("channel_count"),
        final=Count("id", filter=final),
        failed=Count("id", filter=failed),
        paid=Sum("paid_atomic", filter=Q(kind__in=["SETTLE", "DISTRIBUTE"])),
    )
    return Progress(
        settlements=found["settlements"],
        channels=found["channels"] or 0,
        final=found["final"],
        failed=found["failed"],
        under_way=found["settlements"] - found["final"] - found["failed"],
        paid_atomic=int(found["paid"] or 0),
    )


def recon_status(policy: DuePolicy, *, now: datetime) -> Status:
    """Counts over what is unsettled and open; its cost does not grow with history."""
    unsettled = Channel.objects.filter(unsettled_since__isnull=False)
    totals = unsettled.aggregate(
        channels=Count("address"),
        amount=Sum(
            Least("charged_total_atomic", "highest_cumulative_atomic") - F("settled_atomic"),
            filter=Q(charged_total_atomic__gt=F("settled_atomic")),
            output_field=Channel._meta.get_field("charged_total_atomic"),
        ),
        oldest=Min("unsettled_since"),
        waiting=Count("address", filter=Q(in_flight=None, settle_after__gt=now)),
        failing=Count("address", filter=Q(settle_failures__gt=0)),
    )
    owed = Channel.objects.filter(owed_atomic__gt=0).aggregate(
        count=Count("address"), amount=Sum("owed_atomic")
    )
    still_open = Settlement.objects.exclude(state__in=[State.FINALIZED, State.FAILED])
    open_states = dict(still_open.values_list("state").annotate(count=Count("id")).order_by())
    proposals = Aggregation.objects.filter(state__in=["PROPOSED", "SIGNED", "SENT"])
    newest = Batch.objects.order_by("-sequence").first()
    cut = Batch.objects.filter(state=Batch.State.CUT).values_list("sequence", flat=True).first()
    return Status(
        slot=ChainCursor.objects.values_list("slot", flat=True).first() or 0,
        unsettled_channels=totals["channels"],
        unsettled_atomic=int(totals["amount"] or 0),
        oldest_unsettled=totals["oldest"],
        due_channels=due_channels(policy, now=now).count(),
        urgent_channels=unsettled.filter(urgent(policy)).count(),
        waiting_channels=totals["waiting"],
        failing_channels=totals["failing"],
        owed_channels=owed["count"],
        owed_atomic=int(owed["amount"] or 0),
        open=open_states,
        oldest_open=still_open.aggregate(oldest=Min("created_at"))["oldest"],
        unapplied=Settlement.objects.filter(state=State.FINALIZED, paid_atomic=None).count(),
        proposals=dict(proposals.values_list("state").annotate(count=Count("id")).order_by()),
        open_equivocations=Equivocation.objects.filter(
            status__in=[Equivocation.Status.OPEN, Equivocation.Status.SUBMITTED]
        ).count(),
        suspended_agents=AgentMirror.objects.filter(status=AgentMirror.Status.SUSPENDED).count(),
        unbatched_payments=UnbatchedPayment.objects.count(),
        batches=0 if newest is None else newest.sequence + 1,
        open_batch=cut,
        last_batch_at=None if newest is None else newest.cut_at,
    )
