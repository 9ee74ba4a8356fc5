"""Staff's view of money: balances, movements, prices and calls, all read-only.

The one thing staff can do here is grant credit, which is one call to the ledger. Nothing is edited:
a mistake gets a further transfer.
"""

import uuid
from datetime import datetime
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AutocompleteSelect
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.html import format_html_join
from unfold.admin import ModelAdmin
from unfold.decorators import action
from unfold.widgets import UnfoldAdminTextInputWidget

from billing import expiry, grants, ledger, money, usage
from billing.forms import DollarsField
from billing.models import (
    CreditGrant,
    GrantUse,
    LedgerAccount,
    OrganizationTerms,
    PriceVersion,
    Reconciliation,
    Statement,
    Transfer,
    UsageRecord,
    UsageRollup,
)
from orgs.models import Organization


class ReadOnlyAdmin(ModelAdmin):
    """Rows that are added by the platform and never by hand."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never; the view permission shows the row."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False


class OrganizationField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """An organization, found by what staff type: there may be thousands."""

    def __init__(self) -> None:
        asked = OrganizationTerms._meta.get_field("organization")
        widget = AutocompleteSelect(asked, admin.site)
        super().__init__(queryset=Organization.objects.all(), widget=widget)


class ReasonedForm(forms.Form):
    """Why, and a key made when the form is shown: sent twice, it acts once."""

    reason = forms.CharField(
        max_length=300,
        widget=UnfoldAdminTextInputWidget(),
        help_text="Kept with the transfer for ever.",
    )
    idempotency_key = forms.CharField(max_length=120, widget=forms.HiddenInput)


class GrantForm(ReasonedForm):
    """Who gets how much credit, why, and until when."""

    organization = OrganizationField()
    amount = DollarsField(label="Amount in US dollars", widget=UnfoldAdminTextInputWidget)
    expires_on = forms.DateField(
        label="Last day (UTC)",
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "2030-12-31"}),
        help_text="Afterwards what is unspent is taken back. Empty: never.",
    )
    field_order = ("organization", "amount", "reason", "expires_on")

    def clean_expires_on(self) -> datetime | None:
        """When it expires."""
        day = self.cleaned_data["expires_on"]
        if day is None:
            return None
        if day < timezone.now().date():
            raise forms.ValidationError("Give today or a later day.")
        return grants.end_of(day)


class CorrectionForm(ReasonedForm):
    """Whose credit is put right, by how much, and why."""

    organization = OrganizationField()
    amount = DollarsField(
        label="Amount in US dollars",
        is_signed=True,
        widget=UnfoldAdminTextInputWidget,
        help_text="Above zero adds credit, below zero (-5.00) takes it away.",
    )
    field_order = ("organization", "amount", "reason")


def _new_key(verb: str) -> dict[str, str]:
    return {"idempotency_key": f"{verb}:{uuid.uuid4()}"}


def show_form(
    model_admin: ModelAdmin, request: HttpRequest, form: forms.Form, *, title: str, intro: str
) -> HttpResponse:
    """A page with one form that moves money; `title` is on its button, too."""
    context = model_admin.admin_site.each_context(request) | {
        "title": title,
        "intro": intro,
        "form": form,
        "opts": model_admin.model._meta,
    }
    return render(request, "admin/billing/money_form.html", context)


@admin.register(LedgerAccount)
class LedgerAccountAdmin(ReadOnlyAdmin):
    """Balances. Credit is granted from the list, to organizations without accounts too."""

    list_display = ("organization", "kind", "posted", "held", "available")
    list_select_related = ("organization",)
    list_filter = ("kind",)
    search_fields = ("organization__name", "organization__slug", "organization__public_id")
    fields = ("organization", "kind", "allows_overdraft", "posted", "held", "available")
    actions_list = ("grant_credit", "correct_credit")

    @admin.display(description="Posted", ordering="credits_posted_nanos")
    def posted(self, account: LedgerAccount) -> str:
        """Credits minus debits."""
        return money.format_dollars(account.posted_nanos)

    @admin.display(description="Held for calls in flight", ordering="debits_pending_nanos")
    def held(self, account: LedgerAccount) -> str:
        """Debits that are pending."""
        return money.format_dollars(account.debits_pending_nanos)

    @admin.display(description="Available")
    def available(self, account: LedgerAccount) -> str:
        """Posted minus held."""
        return money.format_dollars(account.available_nanos)

    def has_grant_permission(self, request: HttpRequest) -> bool:
        """Staff who may add transfers."""
        return bool(request.user.has_perm("billing.add_transfer"))

    @action(  # type: ignore[untyped-decorator]
        description="Grant credit", url_path="grant-credit", permissions=["grant"]
    )
    def grant_credit(self, request: HttpRequest) -> HttpResponse:
        """A form, then one grant to the chosen organization."""
        form = GrantForm(request.POST or None, initial=_new_key("grant"))
        if request.method == "POST" and form.is_valid() and self._grant(request, form):
            return redirect("admin:billing_ledgeraccount_changelist")
        intro = "It is added as a promotion, can be spent at once and is spent first."
        return show_form(self, request, form, title="Grant credit", intro=intro)

    @action(  # type: ignore[untyped-decorator]
        description="Correct credit", url_path="correct-credit", permissions=["grant"]
    )
    def correct_credit(self, request: HttpRequest) -> HttpResponse:
        """A form, then one correction of the chosen organization's credit."""
        form = CorrectionForm(request.POST or None, initial=_new_key("correct"))
        if request.method == "POST" and form.is_valid() and self._correct(request, form):
            return redirect("admin:billing_ledgeraccount_changelist")
        intro = "A mistake is put right by a further transfer; both stay."
        return show_form(self, request, form, title="Correct credit", intro=intro)

    def _correct(self, request: HttpRequest, form: CorrectionForm) -> bool:
        """Make the transfer and note who did; False, with an error on the form, when refused."""
        organization, nanos = form.cleaned_data["organization"], form.cleaned_data["amount"]
        try:
            transfer = ledger.correct(
                organization,
                nanos,
                reason=form.cleaned_data["reason"],
                idempotency_key=form.cleaned_data["idempotency_key"],
                created_by=request.user,  # type: ignore[arg-type]
                at=timezone.now(),
            )
        except ledger.KeyReused:
            form.add_error(None, "This form corrected something else before. Open it again.")
            return False
        except ledger.UnableToDebit as error:
            available = money.format_dollars(error.available_nanos)
            form.add_error("amount", f"Only {available} of the credit is available.")
            return False
        text = f"Corrected the credit of {organization} by {money.format_dollars(nanos)}."
        self.log_addition(request, transfer, text)
        self.message_user(request, text, messages.SUCCESS)
        return True

    def _grant(self, request: HttpRequest, form: GrantForm) -> bool:
        """Make the transfer and note who did; False, with an error on the form, when refused."""
        organization, nanos = form.cleaned_data["organization"], form.cleaned_data["amount"]
        try:
            transfer = ledger.grant(
                organization,
                nanos,
                reason=form.cleaned_data["reason"],
                idempotency_key=form.cleaned_data["idempotency_key"],
                created_by=request.user,  # type: ignore[arg-type]
                expires_at=form.cleaned_data["expires_on"],
                at=timezone.now(),
            )
        except ledger.KeyReused:
            form.add_error(None, "This form granted something else before. Open it again.")
            return False
        text = f"Granted {money.format_dollars(nanos)} to {organization}."
        self.log_addition(request, transfer, text)
        self.message_user(request, text, messages.SUCCESS)
        return True


@admin.register(Transfer)
class TransferAdmin(ReadOnlyAdmin):
    """Every movement of money."""

    list_display = ("public_id", "organization", "code", "phase", "amount", "reason", "created_at")
    list_select_related = ("organization",)
    list_filter = ("code", "phase")
    search_fields = ("public_id", "idempotency_key", "organization__name", "organization__slug")
    date_hierarchy = "created_at"
    show_full_result_count = False
    fields = (
        "public_id",
        "organization",
        "debit_account",
        "credit_account",
        "amount",
        "phase",
        "pending_transfer",
        "code",
        "reason",
        "idempotency_key",
        "created_by",
        "created_at",
        "expires_at",
    )

    @admin.display(description="Amount", ordering="amount_nanos")
    def amount(self, transfer: Transfer) -> str:
        """Dollars."""
        return money.format_dollars(transfer.amount_nanos)


@admin.register(CreditGrant)
class CreditGrantAdmin(ReadOnlyAdmin):
    """Promotional credit: what is left of each grant and until when."""

    actions_detail = ("end_grant",)
    list_display = ("organization", "amount", "used", "expired", "left", "expires_at", "created_at")
    list_select_related = ("organization",)
    search_fields = ("organization__name", "organization__slug")
    date_hierarchy = "created_at"
    fields = (
        "organization",
        "transfer",
        "amount",
        "used",
        "expired",
        "left",
        "expires_at",
        "created_at",
    )

    def has_end_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Staff who may add transfers."""
        return bool(request.user.has_perm("billing.add_transfer"))

    @action(  # type: ignore[untyped-decorator]
        description="End this grant", url_path="end", permissions=["end"]
    )
    def end_grant(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """A form, then what is unspent of the grant and not reserved is taken back."""
        lot = get_object_or_404(CreditGrant, pk=object_id)
        form = ReasonedForm(request.POST or None, initial=_new_key("end"))
        if request.method == "POST" and form.is_valid():
            transfer = expiry.expire_lot(
                lot.pk, reason=form.cleaned_data["reason"], at=timezone.now()
            )
            if transfer is None:
                form.add_error(None, "Nothing of it is left, or calls have reserved all of it.")
            else:
                text = f"Took back {money.format_dollars(transfer.amount_nanos)}."
                self.log_change(request, lot, text)
                self.message_user(request, text, messages.SUCCESS)
                return redirect("admin:billing_creditgrant_change", object_id)
        left = money.format_dollars(lot.remaining_nanos)
        intro = f"{left} of it is unspent; what calls have reserved stays."
        return show_form(self, request, form, title="End this grant", intro=intro)

    @admin.display(description="Granted", ordering="amount_nanos")
    def amount(self, lot: CreditGrant) -> str:
        """Dollars."""
        return money.format_dollars(lot.amount_nanos)

    @admin.display(description="Used", ordering="used_nanos")
    def used(self, lot: CreditGrant) -> str:
        """Dollars."""
        return money.format_dollars(lot.used_nanos)

    @admin.display(description="Expired", ordering="expired_nanos")
    def expired(self, lot: CreditGrant) -> str:
        """Dollars."""
        return money.format_dollars(lot.expired_nanos)

    @admin.display(description="Left")
    def left(self, lot: CreditGrant) -> str:
        """Dollars."""
        return money.format_dollars(lot.remaining_nanos)


@admin.register(GrantUse)
class GrantUseAdmin(ReadOnlyAdmin):
    """Which transfer took how much of which grant."""

    list_display = ("grant", "transfer", "amount")
    list_select_related = ("grant__organization", "transfer")
    search_fields = ("grant__organization__slug", "transfer__public_id")
    show_full_result_count = False
    fields = ("grant", "transfer", "amount")

    @admin.display(description="Amount", ordering="amount_nanos")
    def amount(self, use: GrantUse) -> str:
        """Dollars."""
        return money.format_dollars(use.amount_nanos)


@admin.register(PriceVersion)
class PriceVersionAdmin(ReadOnlyAdmin):
    """What models cost, from when on."""

    list_display = ("model", "provider", "input_price", "output_price", "effective_at", "source")
    list_filter = ("provider", "source")
    search_fields = ("model", "provider")
    date_hierarchy = "effective_at"
    fields = ("provider", "model", "rates_in_dollars", "effective_at", "source", "created_at")

    @staticmethod
    def _first_tier(version: PriceVersion, bucket: str) -> str:
        tiers = version.rates.get(bucket)
        return money.format_dollars(tiers[0]["nanos_per_million"]) if tiers else "–"

    @admin.display(description="Input, per million")
    def input_price(self, version: PriceVersion) -> str:
        """The first tier of plain input."""
        return self._first_tier(version, "input")

    @admin.display(description="Output, per million")
    def output_price(self, version: PriceVersion) -> str:
        """The first tier of output."""
        return self._first_tier(version, "output")

    @admin.display(description="Rates, per million tokens")
    def rates_in_dollars(self, version: PriceVersion) -> str:
        """Every bucket and tier."""
        return "; ".join(
            f"{bucket} above {tier['from_input_tokens']:,} input tokens: "
            f"{money.format_dollars(tier['nanos_per_million'])}"
            if tier["from_input_tokens"]
            else f"{bucket}: {money.format_dollars(tier['nanos_per_million'])}"
            for bucket, tiers in version.rates.items()
            for tier in tiers
        )


@admin.register(OrganizationTerms)
class OrganizationTermsAdmin(ModelAdmin):
    """Margins. The history of each says who changed it, when, from what to what."""

    list_display = ("organization", "margin")
    list_select_related = ("organization",)
    search_fields = ("organization__name", "organization__slug", "organization__public_id")
    autocomplete_fields = ("organization",)

    @admin.display(description="Margin", ordering="margin_basis_points")
    def margin(self, terms: OrganizationTerms) -> str:
        """Percent."""
        return usage.percent(terms.margin_basis_points)

    def get_readonly_fields(
        self, request: HttpRequest, obj: OrganizationTerms | None = None
    ) -> tuple[str, ...]:
        """Terms stay with their organization."""
        return ("organization",) if obj else ()

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never: a margin of 0 says the same and keeps the history."""
        return False

    def construct_change_message(
        self, request: HttpRequest, form: Any, formsets: Any, add: bool = False
    ) -> str:
        """For the history: from what to what."""
        before = usage.percent(form.initial.get("margin_basis_points") or 0)
        return f"Margin from {before} to {usage.percent(form.instance.margin_basis_points)}."


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnlyAdmin):
    """Every call of the AI API."""

    list_display = (
        "request_id",
        "organization",
        "deploy_id",
        "model_requested",
        "status",
        "tokens",
        "cost",
        "duration_ms",
        "started_at",
    )
    list_select_related = ("organization",)
    list_filter = ("status", "provider", "usage_source", "is_stream")
    search_fields = ("request_id", "deploy_id", "model_requested", "upstream_request_id")
    date_hierarchy = "started_at"
    show_full_result_count = False
    exclude = ("cost_nanos", "held_nanos")
    readonly_fields = ("call_id", "tokens", "cost", "bill", "held")

    @admin.display(description="How the cost came about")
    def bill(self, record: UsageRecord) -> str:
        """The lines of the bill and their sum, as members see them."""
        explanation = usage.explain(record)
        lines = [line.formula for line in explanation.lines]
        return format_html_join(
            "", "<div>{}</div>", [(text,) for text in (*lines, explanation.formula)]
        )

    @admin.display(description="Tokens")
    def tokens(self, record: UsageRecord) -> str:
        """All buckets together."""
        return f"{record.total_tokens:,}"

    @admin.display(description="Cost", ordering="cost_nanos")
    def cost(self, record: UsageRecord) -> str:
        """Dollars."""
        return money.format_dollars(record.cost_nanos)

    @admin.display(description="Held")
    def held(self, record: UsageRecord) -> str:
        """Dollars reserved before the call."""
        return money.format_dollars(record.held_nanos)


@admin.register(UsageRollup)
class UsageRollupAdmin(ReadOnlyAdmin):
    """Usage by hour and day; rows that are not merged yet are parts of their hour."""

    list_display = (
        "starts_at",
        "period",
        "is_merged",
        "organization",
        "deploy_id",
        "model_requested",
        "usage_source",
        "calls",
        "errors",
        "cost",
    )
    list_select_related = ("organization",)
    list_filter = ("period", "is_merged", "provider", "usage_source")
    search_fields = ("deploy_id", "model_requested")
    date_hierarchy = "starts_at"
    show_full_result_count = False
    exclude = ("cost_nanos",)
    readonly_fields = ("cost",)

    @admin.display(description="Cost", ordering="cost_nanos")
    def cost(self, rollup: UsageRollup) -> str:
        """Dollars."""
        return money.format_dollars(rollup.cost_nanos)


@admin.register(Statement)
class StatementAdmin(ReadOnlyAdmin):
    """Closed months."""

    list_display = ("month", "organization", "closed_at", "digest")
    list_select_related = ("organization",)
    search_fields = ("organization__name", "organization__slug")
    date_hierarchy = "month"


@admin.register(Reconciliation)
class ReconciliationAdmin(ReadOnlyAdmin):
    """Comparisons of providers' exports with our records."""

    list_display = (
        "ran_at",
        "provider",
        "first_day",
        "last_day",
        "rows_compared",
        "rows_off",
        "tolerance_percent",
        "ran_by",
    )
    list_filter = ("provider",)
    date_hierarchy = "ran_at"
