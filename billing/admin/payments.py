"""Payments, refunds and what the provider said about them. Staff may refund; nothing is edited."""

import uuid
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.decorators import action
from unfold.widgets import UnfoldAdminTextInputWidget

from billing import money, payments, refunds
from billing.admin.ledger import ReadOnlyAdmin, ReasonedForm, show_form
from billing.forms import DollarsField
from billing.models import AgentTopUp, AutoTopUp, Payment, PaymentCustomer, PaymentEvent, Refund


class NeedsAttention(admin.SimpleListFilter):
    """Payments that staff should look at."""

    title = "attention"
    parameter_name = "attention"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Only those that need somebody, or all."""
        return [("yes", "Needs attention")]

    def queryset(self, request: HttpRequest, queryset: "QuerySet[Any]") -> "QuerySet[Any]":
        """Those with a reason."""
        return queryset.exclude(attention="") if self.value() == "yes" else queryset


class RefundForm(ReasonedForm):
    """How much of a payment goes back, and why."""

    amount = DollarsField(label="Amount in US dollars", widget=UnfoldAdminTextInputWidget)
    field_order = ("amount", "reason")


@admin.register(Payment)
class PaymentAdmin(ReadOnlyAdmin):
    """Purchases of credit."""

    actions_detail = ("refund", "settle_attention")
    list_display = (
        "public_id",
        "organization",
        "kind",
        "status",
        "amount",
        "attention",
        "created_at",
    )
    list_select_related = ("organization",)
    list_filter = (NeedsAttention, "status", "kind")
    search_fields = (
        "public_id",
        "provider_payment_id",
        "provider_session_id",
        "organization__name",
        "organization__slug",
    )
    date_hierarchy = "created_at"
    show_full_result_count = False
    fields = (
        "public_id",
        "organization",
        "kind",
        "status",
        "amount",
        "attention",
        "failure",
        "transfer",
        "provider_session_id",
        "provider_payment_id",
        "idempotency_key",
        "created_by",
        "created_at",
        "completed_at",
        "checked_at",
        "disputed_at",
    )

    def has_refund_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Staff who may add refunds."""
        return bool(request.user.has_perm("billing.add_refund"))

    @action(  # type: ignore[untyped-decorator]
        description="Refund", url_path="refund", permissions=["refund"]
    )
    def refund(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """A form, then the amount is held and Stripe is asked."""
        payment = get_object_or_404(Payment, pk=object_id)
        form = RefundForm(request.POST or None, initial={"idempotency_key": uuid.uuid4().hex})
        if request.method == "POST" and form.is_valid() and self._refund(request, payment, form):
            return redirect("admin:billing_payment_change", object_id)
        left = money.format_dollars(refunds.refundable_nanos(payment))
        intro = f"{left} of this payment is unspent and can be refunded."
        return show_form(self, request, form, title="Refund", intro=intro)

    @action(  # type: ignore[untyped-decorator]
        description="Attention settled", url_path="settle-attention", permissions=["refund"]
    )
    def settle_attention(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """A form: what was done about it, which is kept in the payment's history."""
        payment = get_object_or_404(Payment, pk=object_id)
        form = ReasonedForm(request.POST or None, initial={"idempotency_key": uuid.uuid4().hex})
        if request.method == "POST" and form.is_valid():
            self.log_change(
                request, payment, f"{payment.attention} Settled: {form.cleaned_data['reason']}"
            )
            payments.flag(payment, "")
            return redirect("admin:billing_payment_change", object_id)
        intro = payment.attention or "Nothing about this payment needs attention."
        return show_form(self, request, form, title="Attention settled", intro=intro)

    def _refund(self, request: HttpRequest, payment: Payment, form: RefundForm) -> bool:
        """Ask for it and note who did; False, with an error on the form, when it cannot be."""
        now = timezone.now()
        try:
            refund = refunds.request(
                payment,
                form.cleaned_data["amount"],
                key=form.cleaned_data["idempotency_key"],
                reason=form.cleaned_data["reason"],
                by=request.user,  # type: ignore[arg-type]
                at=now,
            )
        except refunds.UnableToRefund as error:
            form.add_error("amount", str(error))
            return False
        refunds.ask(refund, at=now)
        refund.refresh_from_db()
        amount = money.format_dollars(refund.amount_nanos)
        text = f"Refund of {amount}: {refund.get_status_display().lower()}."
        self.log_change(request, payment, text)
        self.message_user(request, text, messages.SUCCESS)
        return True

    @admin.display(description="Amount", ordering="amount_nanos")
    def amount(self, payment: Payment) -> str:
        """Dollars."""
        return money.format_dollars(payment.amount_nanos)


@admin.register(Refund)
class RefundAdmin(ReadOnlyAdmin):
    """Money on its way back."""

    list_display = ("public_id", "payment", "status", "amount", "is_external", "created_at")
    list_select_related = ("payment",)
    list_filter = ("status", "is_external")
    search_fields = ("public_id", "payment__public_id", "provider_refund_id")
    date_hierarchy = "created_at"
    show_full_result_count = False
    fields = (
        "public_id",
        "payment",
        "status",
        "amount",
        "is_external",
        "reason",
        "failure",
        "hold",
        "provider_refund_id",
        "idempotency_key",
        "requested_by",
        "created_at",
        "asked_at",
        "completed_at",
    )

    @admin.display(description="Amount", ordering="amount_nanos")
    def amount(self, refund: Refund) -> str:
        """Dollars."""
        return money.format_dollars(refund.amount_nanos)


@admin.register(PaymentEvent)
class PaymentEventAdmin(ReadOnlyAdmin):
    """Messages of the provider. Their bodies stay in the database: some carry secrets."""

    list_display = ("provider_event_id", "type", "payment", "outcome", "received_at")
    list_select_related = ("payment",)
    list_filter = ("type",)
    search_fields = ("provider_event_id", "payment__public_id")
    date_hierarchy = "received_at"
    show_full_result_count = False
    fields = ("provider_event_id", "type", "payment", "outcome", "received_at", "processed_at")


@admin.register(PaymentCustomer)
class PaymentCustomerAdmin(ReadOnlyAdmin):
    """Organizations as the provider knows them."""

    list_display = ("organization", "provider_customer_id", "payment_method_label", "created_at")
    list_select_related = ("organization",)
    search_fields = ("provider_customer_id", "organization__name", "organization__slug")


@admin.register(AutoTopUp)
class AutoTopUpAdmin(ReadOnlyAdmin):
    """Who buys credit automatically, and how that goes."""

    list_display = (
        "organization",
        "is_enabled",
        "threshold",
        "amount",
        "monthly_cap",
        "declines",
        "next_try_at",
    )
    list_select_related = ("organization",)
    list_filter = ("is_enabled",)
    search_fields = ("organization__name", "organization__slug")
    fields = (*list_display, "changed_by", "changed_at")

    @admin.display(description="Below", ordering="threshold_nanos")
    def threshold(self, setting: AutoTopUp) -> str:
        """Dollars."""
        return money.format_dollars(setting.threshold_nanos)

    @admin.display(description="Buys", ordering="amount_nanos")
    def amount(self, setting: AutoTopUp) -> str:
        """Dollars."""
        return money.format_dollars(setting.amount_nanos)

    @admin.display(description="At most a month", ordering="monthly_cap_nanos")
    def monthly_cap(self, setting: AutoTopUp) -> str:
        """Dollars."""
        return money.format_dollars(setting.monthly_cap_nanos)


class AgentTopUpForm(forms.ModelForm):  # type: ignore[type-arg]
    """Whether agents may buy credit, with the monthly limit in dollars."""

    monthly_cap = DollarsField(label="At most a month (USD)", widget=UnfoldAdminTextInputWidget)

    class Meta:
        model = AgentTopUp
        fields = ("organization", "is_allowed")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            dollars = money.dollars_from_nanos(self.instance.monthly_cap_nanos)
            self.initial["monthly_cap"] = f"{dollars:.2f}"


@admin.register(AgentTopUp)
class AgentTopUpAdmin(ModelAdmin):
    """Which organizations' agents may buy credit; owners decide it in the console, too."""

    form = AgentTopUpForm
    list_display = ("organization", "is_allowed", "cap", "changed_by", "changed_at")
    list_select_related = ("organization", "changed_by")
    list_filter = ("is_allowed",)
    search_fields = ("organization__name", "organization__slug")
    autocomplete_fields = ("organization",)
    fields = ("organization", "is_allowed", "monthly_cap", "changed_by", "changed_at")
    readonly_fields = ("changed_by", "changed_at")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Whose it is stays as it is."""
        return (*self.readonly_fields, "organization") if obj else self.readonly_fields

    def save_model(self, request: HttpRequest, obj: AgentTopUp, form: Any, change: bool) -> None:
        """With the limit, and with who changed it when."""
        obj.monthly_cap_nanos = form.cleaned_data["monthly_cap"]
        obj.changed_by, obj.changed_at = request.user, timezone.now()  # type: ignore[assignment]
        super().save_model(request, obj, form, change)

    @admin.display(description="At most a month", ordering="monthly_cap_nanos")
    def cap(self, setting: AgentTopUp) -> str:
        """Dollars."""
        return money.format_dollars(setting.monthly_cap_nanos)
