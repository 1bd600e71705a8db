"""What settlement transactions still wait for."""

from apps.payments.models import Settlement, SettlementItem


def channels_to_end(*, through_slot: int) -> dict[str, str]:
    """The channels (address: agent) of final transactions up to this slot whose effect the mirrors do not show yet."""
    ended = Settlement.objects.filter(
        state=Settlement.State.FINALIZED, paid_atomic=None, slot__lte=through_slot
    )
    items = SettlementItem.objects.filter(settlement__in=ended)
    return dict(items.values_list("channel_id", "channel__agent_id"))
