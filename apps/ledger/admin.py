"""The books in the admin: accounts with their history, and transfers with their entries."""

from django.contrib import admin

from apps.core.admin import ReadOnlyAdmin, ReadOnlyInline, usdc
from apps.ledger.models import Account, Entry, Hold, Transfer


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    list_display = ("kind", "owner", "sub", "shard", "book", "balance", "held", "version", "created_at")
    list_filter = ("kind", "book")
    search_fields = ("=owner", "=sub")
    ordering = ("kind", "owner", "sub")
    balance = usdc("balance_atomic", "balance")
    held = usdc("held_atomic", "held")


class EntryInline(ReadOnlyInline):
    model = Entry
    fields = ("account", "amount", "balance", "account_version")
    readonly_fields = fields
    amount = usdc("amount_atomic", "amount")
    balance = usdc("balance_atomic", "balance after")


@admin.register(Transfer)
class TransferAdmin(ReadOnlyAdmin):
    list_display = ("id", "kind", "key", "created_at")
    list_filter = ("kind",)
    search_fields = ("=key",)
    ordering = ("-id",)
    inlines = (EntryInline,)


@admin.register(Entry)
class EntryAdmin(ReadOnlyAdmin):
    """One account's history is `?account__id=<id>`."""

    list_display = ("id", "account", "account_version", "amount", "balance", "transfer")
    list_select_related = ("account", "transfer")
    search_fields = ("=account__owner", "=transfer__key")
    ordering = ("-id",)
    amount = usdc("amount_atomic", "amount")
    balance = usdc("balance_atomic", "balance after")


@admin.register(Hold)
class HoldAdmin(ReadOnlyAdmin):
    list_display = ("key", "account", "amount", "state", "posted", "expires_at", "created_at", "resolved_at")
    list_select_related = ("account",)
    list_filter = ("state",)
    search_fields = ("=key", "=account__owner")
    ordering = ("-id",)
    amount = usdc("amount_atomic", "held")
    posted = usdc("posted_atomic", "posted")
