"""Which channels are due: what is worth a transaction, and what cannot wait."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from django.db.models import Count, Exists, F, Min, OuterRef, Q, QuerySet
from django.db.models.functions import Least

from apps.payments.models import Aggregation, AggregationItem, Channel, Equivocation

# What a gateway delivers this long after an alarm was charged on a lease of before.
URGENT_FOR: Final = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class DuePolicy:
    """When a channel is worth a transaction: at least `minimum_atomic` to pay, and either `trigger_atomic` or
    more of it, or unsettled for `max_age`. One that has to be created, for rent, needs `create_minimum_atomic`, or
    `create_max_age`.

    What cannot wait is due whatever it is worth: every channel of an agent whose withdrawal unlocks until
    `unlocks_until` (unix seconds by the chain's clock), who has an open claim, is forfeited or caught double-signing,
    and what was charged around an alarm. With `awaits_cosigners` all else that is proposed waits for its agent to sign.
    """

    minimum_atomic: int
    trigger_atomic: int
    max_age: timedelta
    create_minimum_atomic: int = 0
    create_max_age: timedelta = timedelta(0)
    unlocks_until: int = 0
    awaits_cosigners: bool = True


def urgent(policy: DuePolicy) -> Q:
    """Channels that cannot wait."""
    caught = Equivocation.objects.filter(
        agent=OuterRef("agent"), status__in=[Equivocation.Status.OPEN, Equivocation.Status.SUBMITTED]
    )
    return (
        Q(agent__pending_withdrawal_atomic__gt=0, agent__withdrawal_unlock__lte=policy.unlocks_until)
        | Q(agent__open_claims_atomic__gt=0)
        | Q(agent__forfeited_atomic__gt=0)
        | Q(
            agent__settle_urgently_since__isnull=False,
            unsettled_since__lte=F("agent__settle_urgently_since") + URGENT_FOR,
        )
        | Q(Exists(caught))
    )


def due_channels(policy: DuePolicy, *, now: datetime) -> QuerySet[Channel]:
    """Due channels that no settlement has under way. Those of agents with an empty bond are not due: there is
    nothing to pay them from."""
    payable = Least("highest_cumulative_atomic", "charged_total_atomic") - F("settled_atomic")
    proposed = AggregationItem.objects.filter(
        channel=OuterRef("pk"),
        aggregation__state__in=[Aggregation.State.PROPOSED, Aggregation.State.SIGNED],
        aggregation__expires_at__gt=now,
    )
    worth_it = (
        Q(payable__gte=policy.minimum_atomic)
        & (Q(payable__gte=policy.trigger_atomic) | Q(unsettled_since__lte=now - policy.max_age))
        & (
            Q(slot__gt=0)
            | Q(payable__gte=policy.create_minimum_atomic)
            | Q(unsettled_since__lte=now - policy.create_max_age)
        )
    )
    return (
        Channel.objects.filter(in_flight=None, unsettled_since__isnull=False, highest_cumulative_atomic__gt=0)
        .filter(Q(settle_after=None) | Q(settle_after__lte=now))
        .filter(Q(agent__bond_atomic__gt=0) | Q(agent__forfeited_atomic__gt=0))
        .alias(payable=payable)
        .filter(payable__gte=1)
        .filter(urgent(policy) | (worth_it & ~Q(Exists(proposed)) if policy.awaits_cosigners else worth_it))
    )


def due_vendors(policy: DuePolicy, *, now: datetime) -> list[tuple[str, int]]:
    """Vendors with due channels and how many, those whose channels have waited longest first."""
    rows = due_channels(policy, now=now).values_list("vendor")
    counted = rows.annotate(channels=Count("address"), oldest=Min("unsettled_since")).order_by("oldest")
    return [(vendor, channels) for vendor, channels, _ in counted]
