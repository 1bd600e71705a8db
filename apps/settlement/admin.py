"""What recon found and did, in the admin: chain events, cases and their decisions, complaints, reversals.

Everything is read-only but one page: a case is decided there, with a reason, by staff who may change cases. The
decision is the service's; this only asks for it.
"""

import json
from typing import Any, Final

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, render
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.core.admin import ReadOnlyAdmin, ReadOnlyInline, usdc
from apps.core.errors import DomainError
from apps.payments.models import (
    Case,
    CaseEntry,
    ChainEvent,
    ChainTransaction,
    Complaint,
    Reconciliation,
    Reversal,
)
from apps.payments.services.decisions import Decision, decide, possible

_LABELS: Final = {
    Decision.UPHOLD: "Uphold: reduce the gateway's reputation, or suspend the agent",
    Decision.BLACKLIST: "Uphold, and blacklist the gateway",
    Decision.DISMISS: "Dismiss: nothing follows",
    Decision.REINSTATE: "Reinstate: lift what followed",
}


class DecisionForm(forms.Form):
    """What to do about a case, and why: the reason goes into the audit trail."""

    decision = forms.ChoiceField()
    note = forms.CharField(widget=forms.Textarea(attrs={"rows": 4}), max_length=2000, label="Reason")

    def __init__(self, case: Case, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [(str(each), _LABELS[each]) for each in possible(case)]
        self.fields["decision"].choices = choices  # type: ignore[attr-defined]


class EntryInline(ReadOnlyInline):
    model = CaseEntry
    fields = ("at", "action", "by", "note", "data")
    readonly_fields = fields
    ordering = ("id",)


@admin.register(Case)
class CaseAdmin(ReadOnlyAdmin):
    list_display = ("id", "kind", "role", "subject", "status", "amount", "opened_at", "decided_at")
    list_filter = ("status", "kind")
    search_fields = ("=subject", "=key")
    ordering = ("-id",)
    inlines = (EntryInline,)
    fields = ("decide", "kind", "role", "subject", "status", "amount", "shown", "opened_at", "decided_at")
    readonly_fields = ("decide", "shown", "amount")
    amount = usdc("amount_atomic", "at stake")

    @admin.display(description="Evidence")
    def shown(self, case: Case) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(case.evidence, indent=2))

    @admin.display(description="Decision")
    def decide(self, case: Case) -> SafeString:
        return format_html('<a href="{}">Decide</a>', reverse("admin:payments_case_decide", args=[case.id]))

    def get_urls(self) -> list[URLPattern]:
        decide = path(
            "<int:case_id>/decide/", self.admin_site.admin_view(self.decide_view), name="payments_case_decide"
        )
        urls: list[URLPattern] = super().get_urls()
        return [decide, *urls]

    def decide_view(self, request: HttpRequest, case_id: int) -> HttpResponse:
        """The one page that changes something; GET shows the form, POST decides."""
        if not request.user.has_perm("payments.change_case"):
            raise PermissionDenied
        case = get_object_or_404(Case, id=case_id)
        form = DecisionForm(case, request.POST if request.method == "POST" else None)
        if form.is_valid():
            try:
                decide(
                    case.id,
                    Decision(form.cleaned_data["decision"]),
                    by=request.user.get_username(),
                    note=form.cleaned_data["note"],
                )
            except DomainError as error:
                messages.error(request, error.detail)
            else:
                messages.success(request, f"Case {case.id}: {form.cleaned_data['decision']}.")
            return HttpResponseRedirect(reverse("admin:payments_case_change", args=[case.id]))
        context = {**self.admin_site.each_context(request), "case": case, "form": form, "title": str(case)}
        return render(request, "admin/payments/case/decide.html", context)


@admin.register(Complaint)
class ComplaintAdmin(ReadOnlyAdmin):
    list_display = ("id", "kind", "verdict", "gateway", "agent", "received_at", "case")
    list_filter = ("kind", "verdict")
    search_fields = ("=agent__agent", "=gateway__pubkey")
    ordering = ("-id",)
    exclude = ("digest",)


@admin.register(Reversal)
class ReversalAdmin(ReadOnlyAdmin):
    list_display = ("id", "agent", "gateway", "amount", "collected", "intents", "reversed_at", "collected_at")
    search_fields = ("=agent", "=gateway", "=vendor")
    ordering = ("-id",)
    amount = usdc("amount_atomic", "reversed")
    collected = usdc("collected_atomic", "paid later")


@admin.register(ChainTransaction)
class ChainTransactionAdmin(ReadOnlyAdmin):
    list_display = ("signature", "slot", "state", "attempts", "error", "found_at")
    list_filter = ("state",)
    search_fields = ("=signature",)
    ordering = ("-slot",)


@admin.register(ChainEvent)
class ChainEventAdmin(ReadOnlyAdmin):
    """Search finds any key in an event: an agent, gateway, vendor, channel or wallet."""

    list_display = ("id", "kind", "slot", "transaction", "instruction", "position")
    list_filter = ("kind",)
    search_fields = ("=transaction__signature",)
    ordering = ("-id",)

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        if not search_term:
            return queryset, False
        found, several = super().get_search_results(request, queryset, search_term)
        return found | queryset.filter(keys__contains=[search_term]), several


@admin.register(Reconciliation)
class ReconciliationAdmin(ReadOnlyAdmin):
    list_display = ("slot", "equal", "made_at")
    list_filter = ("equal",)
    ordering = ("-id",)
