"""Payouts and the wallets they go to. Programs write them; staff may cancel a payout that is still pending."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from apps.core.admin import ReadOnlyAdmin, ReadOnlyInline, usdc
from apps.core.errors import DomainError
from apps.vendors.models import Payout, PayoutAttempt, PayoutDestination
from apps.vendors.services.payouts import cancel_payout


class PayoutAttemptInline(ReadOnlyInline):
    model = PayoutAttempt
    fields = (
        "number",
        "outcome",
        "signature",
        "last_valid_block_height",
        "send_count",
        "slot",
        "error",
        "ended_at",
    )
    readonly_fields = fields


@admin.register(Payout)
class PayoutAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "status",
        "user",
        "amount",
        "wallet",
        "reference",
        "attempt_count",
        "created_at",
        "ended_at",
        "error",
    )
    list_filter = ("status",)
    list_select_related = ("user",)
    search_fields = ("=reference", "=wallet", "=tx_hash", "=attempts__signature")
    ordering = ("-id",)
    inlines = (PayoutAttemptInline,)
    actions = ("cancel",)
    amount = usdc("amount_atomic", "amount")

    @admin.action(description="Cancel pending payouts and give the balance back", permissions=["cancel"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Payout]) -> None:
        """One at a time: what cannot be cancelled any more says so and holds up nothing."""
        for payout in queryset:
            try:
                cancelled = cancel_payout(payout.pk, by_id=int(request.user.pk or 0))
            except DomainError as error:
                self.message_user(request, str(error), messages.WARNING)
            else:
                self.log_change(request, cancelled, "Cancelled; the balance was given back.")
                self.message_user(request, f"Payout {payout.pk} is cancelled.", messages.SUCCESS)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("vendors.change_payout")


@admin.register(PayoutDestination)
class PayoutDestinationAdmin(ReadOnlyAdmin):
    list_display = ("wallet", "user", "created_at", "confirmed_at", "usable_from", "removed_at")
    list_select_related = ("user",)
    search_fields = ("=wallet",)
    ordering = ("-id",)
    exclude = ("challenge",)
