"""Console pages of credit: what is left and of which kind, buying more, and getting money back.

Every member sees; only owners act. A form that could not be served is shown again with its key, so
that sending it once more repeats the same intention.
"""

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db.models import Q, QuerySet
from django.http import HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET

from billing import agent_top_up, auto_top_up, grants, ledger, money, payments, refunds, stripe_api
from billing.forms import TOP_UP_DOLLARS, AgentTopUpForm, AutoTopUpForm, RefundForm, TopUpForm
from billing.models import AgentTopUp, AutoTopUp, Payment
from orgs import listing
from orgs.context import ConsoleRequest, form_on, member_page, owner_page
from orgs.models import Organization

NO_ANSWER = "Stripe does not answer just now. Nothing was paid; send the form again."
NOT_CONFIGURED = "Payments are not set up here."


@require_GET
@member_page
def credit(request: ConsoleRequest) -> HttpResponse:
    """Balance by kind, promotions by expiry, payments with their refunds."""
    return _page(request, is_back="back" in request.GET)


def _page(
    request: ConsoleRequest,
    *,
    top_up_form: TopUpForm | None = None,
    auto_form: AutoTopUpForm | None = None,
    agent_form: AgentTopUpForm | None = None,
    is_back: bool = False,
    status: int = 200,
) -> HttpResponse:
    organization, now = request.organization, timezone.now()
    balance = ledger.balance(organization)
    lots = list(grants.open_lots().filter(organization=organization))
    promotional = sum(lot.remaining_nanos for lot in lots)
    setting = AutoTopUp.objects.filter(organization=organization).first()
    agents = agent_top_up.setting_of(organization)
    url = reverse("billing:credit", args=[organization.slug])
    found = listing.of(request, _payments(organization), url)
    context = {
        "balance": balance,
        "promotional_nanos": promotional,
        "other_nanos": balance.posted_nanos - promotional,
        "owed_nanos": ledger.owed_nanos(organization.pk),
        "lots": lots,
        "next_lot": lots[0] if lots and lots[0].expires_at else None,
        "listing": found,
        "rows": _payment_rows(organization, found.rows),
        "top_up_form": top_up_form or TopUpForm(),
        "choices": TOP_UP_DOLLARS,
        "amount_nanos_min": payments.AMOUNT_NANOS_MIN,
        "amount_nanos_max": payments.AMOUNT_NANOS_MAX,
        "setting": setting,
        "auto_form": auto_form or AutoTopUpForm(initial=_as_typed(setting)),
        "saved_method": auto_top_up.saved_method_of(organization),
        "spent_this_month_nanos": auto_top_up.spent_this_month_nanos(organization.pk, now),
        "agents": agents,
        "agent_form": agent_form or AgentTopUpForm(initial=_agents_as_typed(agents)),
        "bought_by_agents_nanos": agent_top_up.spent_this_month_nanos(organization.pk, now),
        "is_configured": stripe_api.is_configured(),
        "has_webhook_secret": bool(settings.STRIPE_WEBHOOK_SECRET.strip()),
        "is_back": is_back,
        "webhook_url": f"{settings.PUBLIC_URL}{reverse('stripe-webhook')}",
    }
    return render(request, "billing/credit.html", context, status=status)


def _payments(organization: Organization) -> QuerySet[Payment]:
    """Those somebody may ask about, latest first, with their refunds."""
    # A Checkout that never came to be asks nothing of anybody.
    nowhere = Q(kind=Payment.Kind.CHECKOUT, provider_session_id=None) & ~Q(status="SUCCEEDED")
    found = Payment.objects.filter(organization=organization).exclude(nowhere)
    return found.prefetch_related("refunds")


def _payment_rows(organization: Organization, shown: Iterable[Payment]) -> list[dict[str, Any]]:
    """Each payment with its refunds, and a form where something can be refunded."""
    refundable = refunds.refundable_by_payment(organization.pk)
    return [
        {
            "payment": payment,
            "refunds": payment.refunds.all(),
            "refundable_nanos": (most := refundable.get(payment.pk, 0)),
            "form": RefundForm(initial={"amount": _dollars(most)}) if most else None,
        }
        for payment in shown
    ]


def _dollars(nanos: int) -> str:
    """As it is typed: without a sign."""
    return f"{money.dollars_from_nanos(nanos):.2f}"


def _as_typed(setting: AutoTopUp | None) -> dict[str, Any]:
    if setting is None:
        return {"threshold": "10.00", "amount": "25.00", "monthly_cap": "100.00"}
    return {
        "is_enabled": setting.is_enabled,
        "threshold": _dollars(setting.threshold_nanos),
        "amount": _dollars(setting.amount_nanos),
        "monthly_cap": _dollars(setting.monthly_cap_nanos),
    }


def _agents_as_typed(setting: AgentTopUp | None) -> dict[str, Any]:
    if setting is None:
        return {"monthly_cap": "100.00"}
    return {"is_allowed": setting.is_allowed, "monthly_cap": _dollars(setting.monthly_cap_nanos)}


@form_on("billing:credit")
@owner_page
def top_up(request: ConsoleRequest) -> HttpResponse:
    """To Stripe's page, where the person pays."""
    form = TopUpForm(request.POST)
    if not form.is_valid():
        return _page(request, top_up_form=form, status=400)
    nanos, saves = form.cleaned_data["amount_nanos"], form.cleaned_data["saves_payment_method"]
    page = f"{settings.PUBLIC_URL}{reverse('billing:credit', args=[request.organization.slug])}"
    try:
        url = payments.start_checkout(
            request.organization,
            nanos,
            # Another amount from the same page (by the browser's back button) is another intention.
            key=f"{form.cleaned_data['key']}:{nanos}:{saves:d}",
            saves_payment_method=saves,
            return_url=f"{page}?back=1",
            by=request.user,
            at=timezone.now(),
        )
    except payments.UnableToTopUp as error:
        form.add_error(None, str(error))
        return _page(request, top_up_form=form, status=400)
    except (stripe_api.UnableToReachStripe, stripe_api.PaymentsNotConfigured) as error:
        is_away = isinstance(error, stripe_api.UnableToReachStripe)
        form.add_error(None, NO_ANSWER if is_away else NOT_CONFIGURED)
        return _page(request, top_up_form=form, status=503)
    except stripe_api.StripeRefused as error:
        form.add_error(None, f"Stripe refused: {error.message}")
        return _page(request, top_up_form=form, status=502)
    return HttpResponseRedirect(url)


@form_on("billing:credit")
@owner_page
def refund_create(request: ConsoleRequest, payment_id: str) -> HttpResponse:
    """Holds the amount, asks for the refund, and says how that went."""
    payment = get_object_or_404(Payment, public_id=payment_id, organization=request.organization)
    form = RefundForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Nothing was refunded: give an amount in dollars.")
        return redirect("billing:credit", request.organization.slug)
    now = timezone.now()
    try:
        refund = refunds.request(
            payment,
            form.cleaned_data["amount"],
            key=form.cleaned_data["key"],
            reason="requested in the console",
            by=request.user,
            at=now,
        )
    except refunds.UnableToRefund as error:
        messages.error(request, f"Nothing was refunded: {error}")
        return redirect("billing:credit", request.organization.slug)
    refunds.ask(refund, at=now)
    refund.refresh_from_db()
    _tell(request, refund)
    return redirect("billing:credit", request.organization.slug)


def _tell(request: ConsoleRequest, refund: Any) -> None:
    """What became of a refund just asked for."""
    amount = money.format_dollars(refund.amount_nanos)
    if refund.status == refunds.Status.FAILED:
        messages.error(request, f"The refund of {amount} failed: {refund.failure}")
    elif refund.status == refunds.Status.SUCCEEDED:
        messages.success(request, f"Refunded {amount}. Banks show it within days.")
    else:
        messages.success(request, f"The refund of {amount} is under way; its credit is held.")


@form_on("billing:credit")
@owner_page
def auto_top_up_change(request: ConsoleRequest) -> HttpResponse:
    """Keep when and how much to buy automatically."""
    form = AutoTopUpForm(request.POST)
    if not form.is_valid():
        return _page(request, auto_form=form, status=400)
    chosen = form.cleaned_data
    try:
        setting = auto_top_up.configure(
            request.organization,
            is_enabled=chosen["is_enabled"],
            threshold_nanos=chosen["threshold"],
            amount_nanos=chosen["amount"],
            monthly_cap_nanos=chosen["monthly_cap"],
            by=request.user,
            at=timezone.now(),
        )
    except auto_top_up.UnableToConfigure as error:
        form.add_error(None, str(error))
        return _page(request, auto_form=form, status=400)
    state = "on" if setting.is_enabled else "off"
    messages.success(request, f"Automatic top-ups are {state}.")
    return redirect("billing:credit", request.organization.slug)


@form_on("billing:credit")
@owner_page
def agent_top_up_change(request: ConsoleRequest) -> HttpResponse:
    """Keep whether agents may buy credit with workspace tokens, and how much."""
    form = AgentTopUpForm(request.POST)
    if not form.is_valid():
        return _page(request, agent_form=form, status=400)
    try:
        setting = agent_top_up.configure(
            request.organization,
            is_allowed=form.cleaned_data["is_allowed"],
            monthly_cap_nanos=form.cleaned_data["monthly_cap"],
            by=request.user,
            at=timezone.now(),
        )
    except agent_top_up.UnableToConfigure as error:
        form.add_error(None, str(error))
        return _page(request, agent_form=form, status=400)
    state = "may buy credit now" if setting.is_allowed else "may not buy credit"
    messages.success(request, f"Agents {state}.")
    return redirect("billing:credit", request.organization.slug)
