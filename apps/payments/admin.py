"""Gateways, agents, channels, settlements, batches and equivocations in the admin. Read-only: services write them.

Intents have a composite key, which the admin cannot register: a channel's page shows its latest ones.
"""

from django.contrib import admin
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from apps.core.admin import ReadOnlyAdmin, ReadOnlyInline, usdc
from apps.core.money import format_usdc
from apps.payments.models import (
    AgentMirror,
    Aggregation,
    AggregationItem,
    Batch,
    Channel,
    CustodialDeposit,
    CustodialPayment,
    DepositReference,
    EnforcementEvent,
    Equivocation,
    Gateway,
    Lease,
    PaymentIntent,
    Settlement,
    SettlementItem,
)

INTENTS_SHOWN = 50


@admin.register(Gateway)
class GatewayAdmin(ReadOnlyAdmin):
    list_display = ("pubkey", "status", "vendor", "url", "version", "log_seq", "last_heartbeat_at", "revoked")
    list_filter = ("status", "revoked")
    search_fields = ("=pubkey", "=vendor")
    ordering = ("-last_heartbeat_at",)


@admin.register(AgentMirror)
class AgentAdmin(ReadOnlyAdmin):
    list_display = ("agent", "status", "bond", "pending_withdrawal", "open_claims", "paid", "slot")
    list_filter = ("status",)
    search_fields = ("=agent", "=owner")
    ordering = ("agent",)
    bond = usdc("bond_atomic", "bond")
    pending_withdrawal = usdc("pending_withdrawal_atomic", "pending withdrawal")
    open_claims = usdc("open_claims_atomic", "open claims")
    paid = usdc("paid_total_atomic", "paid in all")


@admin.register(Lease)
class LeaseAdmin(ReadOnlyAdmin):
    list_display = ("id", "state", "agent", "gateway", "begins_at", "up_to", "expires_at", "revoked_reason")
    list_filter = ("state", "revoked_reason")
    search_fields = ("=id", "=agent__agent", "=gateway__pubkey")
    ordering = ("-granted_at",)
    begins_at = usdc("from_atomic", "from")
    up_to = usdc("up_to_atomic", "up to")


@admin.register(EnforcementEvent)
class EnforcementAdmin(ReadOnlyAdmin):
    """The record of who changed what an agent may do."""

    list_display = ("at", "action", "agent", "reason", "by", "leases_revoked")
    list_filter = ("action",)
    search_fields = ("=agent", "by")
    ordering = ("-id",)


@admin.register(Channel)
class ChannelAdmin(ReadOnlyAdmin):
    list_display = (
        "address",
        "agent",
        "gateway",
        "charged",
        "settled",
        "highest",
        "last_payment_at",
        "in_flight",
    )
    search_fields = ("=address", "=agent__agent", "=gateway__pubkey", "=vendor")
    ordering = ("-last_payment_at",)
    readonly_fields = ("latest_intents",)
    charged = usdc("charged_total_atomic", "charged")
    settled = usdc("settled_atomic", "settled")
    highest = usdc("highest_cumulative_atomic", "highest voucher")

    @admin.display(description=f"Latest {INTENTS_SHOWN} intents")
    def latest_intents(self, channel: Channel) -> SafeString:
        # One agent's channel is a prefix of no index; its newest rows sit at the end of the newest partitions.
        intents = PaymentIntent.objects.filter(agent=channel.agent_id, channel=channel.address).order_by(
            "-nonce_time"
        )
        rows = format_html_join(
            "",
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td><code>{}</code></td></tr>",
            (
                (
                    intent.nonce_time.isoformat(timespec="seconds"),
                    intent.status,
                    format_usdc(intent.charged_atomic),
                    intent.http_status,
                    bytes(intent.digest).hex(),
                )
                for intent in intents[:INTENTS_SHOWN]
            ),
        )
        return format_html(
            "<table><tr><th>Nonce time</th><th>Status</th><th>Charged (USDC)</th><th>HTTP</th><th>Digest</th></tr>"
            "{}</table>",
            rows,
        )


class SettlementItemInline(ReadOnlyInline):
    model = SettlementItem
    fields = ("channel", "cumulative", "up_to", "before", "paid")
    readonly_fields = fields
    cumulative = usdc("cumulative_atomic", "voucher")
    up_to = usdc("up_to_atomic", "up to")
    before = usdc("settled_before_atomic", "settled before")
    paid = usdc("paid_atomic", "paid")


@admin.register(Settlement)
class SettlementAdmin(ReadOnlyAdmin):
    list_display = (
        "id",
        "kind",
        "state",
        "vendor",
        "channel_count",
        "planned",
        "paid",
        "slot",
        "created_at",
        "signature",
    )
    list_filter = ("kind", "state")
    search_fields = ("=signature", "=vendor")
    ordering = ("-id",)
    inlines = (SettlementItemInline,)
    exclude = ("raw_transaction",)
    planned = usdc("planned_atomic", "planned")
    paid = usdc("paid_atomic", "paid")


class AggregationItemInline(ReadOnlyInline):
    model = AggregationItem
    exclude = ("cumulative_atomic", "settled_before_atomic", "voucher_atomic", "context", "signature")
    readonly_fields = ("cumulative", "before", "voucher")
    cumulative = usdc("cumulative_atomic", "settle up to")
    before = usdc("settled_before_atomic", "settled before")
    voucher = usdc("voucher_atomic", "authorised")


@admin.register(Aggregation)
class AggregationAdmin(ReadOnlyAdmin):
    list_display = ("id", "state", "agent", "amount", "created_at", "expires_at", "settlement")
    list_filter = ("state",)
    search_fields = ("=agent__agent",)
    ordering = ("-created_at",)
    inlines = (AggregationItemInline,)
    exclude = ("signature",)
    amount = usdc("amount_atomic", "amount")


@admin.register(Batch)
class BatchAdmin(ReadOnlyAdmin):
    list_display = (
        "sequence",
        "state",
        "leaf_count",
        "total",
        "attempts",
        "cut_at",
        "committed_at",
        "signature",
    )
    list_filter = ("state",)
    search_fields = ("=signature", "=sequence")
    ordering = ("-sequence",)
    exclude = ("page_roots", "root", "head", "previous_head")
    readonly_fields = ("root_hex", "head_hex")
    total = usdc("total_atomic", "charged")

    @admin.display(description="root")
    def root_hex(self, batch: Batch) -> str:
        return bytes(batch.root).hex()

    @admin.display(description="head")
    def head_hex(self, batch: Batch) -> str:
        return bytes(batch.head).hex()


@admin.register(Equivocation)
class EquivocationAdmin(ReadOnlyAdmin):
    list_display = ("id", "agent", "nonce", "status", "channel_a", "channel_b", "found_at")
    list_filter = ("status",)
    search_fields = ("=agent__agent",)
    ordering = ("-id",)


@admin.register(CustodialDeposit)
class CustodialDepositAdmin(ReadOnlyAdmin):
    """What names nobody is credited by `manage.py attribute_deposit`, which keeps who decided it and why."""

    list_display = (
        "id",
        "status",
        "amount",
        "user",
        "source",
        "slot",
        "signature",
        "seen_at",
        "attributed_by",
        "note",
    )
    list_filter = ("status",)
    list_select_related = ("user", "attributed_by")
    search_fields = ("=signature", "=source")
    ordering = ("-id",)
    amount = usdc("amount_atomic", "amount")


@admin.register(CustodialPayment)
class CustodialPaymentAdmin(ReadOnlyAdmin):
    list_display = ("id", "payer", "payee", "amount", "reference", "created_at")
    list_select_related = ("payer", "payee")
    search_fields = ("=reference",)
    ordering = ("-id",)
    amount = usdc("amount_atomic", "amount")


@admin.register(DepositReference)
class DepositReferenceAdmin(ReadOnlyAdmin):
    list_display = ("reference", "user", "issued_at")
    list_select_related = ("user",)
    search_fields = ("=reference",)
    ordering = ("-issued_at",)
