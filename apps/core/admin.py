"""Admin pages for rows that programs write and people only read."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from apps.core.money import format_usdc


class ReadOnly:
    """Nobody adds, changes or deletes these rows here, superusers included."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyAdmin(ReadOnly, ModelAdmin):
    """A list and detail pages. Counting large tables is slow and told nobody anything, so lists do not count."""

    show_full_result_count = False
    list_per_page = 50

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        # No row has such a key, and PostgreSQL cannot even be asked for it.
        return None if "\0" in object_id else super().get_object(request, object_id, from_field)


class ReadOnlyInline(ReadOnly, TabularInline):
    extra = 0
    can_delete = False
    show_change_link = False


def usdc(field: str, label: str) -> Callable[[Any, Model], str]:
    """A column that shows the atomic amount in `field` as USDC."""

    @admin.display(description=f"{label} (USDC)", ordering=field)
    def column(_admin: Any, row: Model) -> str:
        amount: int | None = getattr(row, field)
        return "–" if amount is None else format_usdc(amount)

    return column
