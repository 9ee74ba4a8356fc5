"""Agents buy credit with a workspace token: where allowed, within a limit, and once for a key."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import agent_top_up, auto_top_up, checks, ledger, payments
from billing.models import AgentTopUp, AutoTopUp, Payment, PaymentCustomer, Transfer
from orgs.models import IdempotentRequest
from tests import factories
from tests.stripe_server import AUTHENTICATION_CARD, DECLINED_CARD, GOOD_CARD

DOLLAR = 1_000_000_000
pytestmark = pytest.mark.django_db
TIMES, AT_ONCE = 50, 10


@pytest.fixture
def saved(buyer):
    """$25 of credit, and a payment method that can be charged."""
    buyer.buy(25, saves=True)
    return PaymentCustomer.objects.get()


def allow(organization, owner, dollars=100, **changes):
    wanted = {"is_allowed": True, "monthly_cap_nanos": dollars * DOLLAR}
    return agent_top_up.configure(organization, **(wanted | changes), by=owner, at=timezone.now())


@pytest.fixture
def allowed(organization, owner, saved):
    return allow(organization, owner)


def top_up(agent, amount: Any = "20.00", key="order-1"):
    headers = {"Idempotency-Key": key} if key else {}
    return agent("billing/top-up", {"amountUsd": amount}, **headers)


def refused(answer, status, code):
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    return answer.json()["error"]["message"]


def bought(organization):
    return Payment.objects.filter(organization=organization, kind="AGENT")


def charges(stripe):
    """Cents of every payment made without a person."""
    return [one["amount"] for one in stripe.intents() if one["amount"] != 2500]


def use_card(stripe, customer, number):
    method = stripe.save_card(customer.provider_customer_id, number)
    PaymentCustomer.objects.update(payment_method_id=method)


# --- What is left --------------------------------------------------------------------------------
def test_an_agent_reads_the_balance_and_whether_it_may_buy(agent, organization, owner, saved):
    before = agent("billing/balance").json()
    assert before == {
        "availableUsd": "25",
        "heldUsd": "0",
        "balanceUsd": "25",
        "owedUsd": "0",
        "topUp": {
            "allowed": False,
            "hasPaymentMethod": True,
            "monthlyCapUsd": None,
            "boughtThisMonthUsd": "0",
            "minUsd": "5",
            "maxUsd": "10000",
        },
    }
    allow(organization, owner)
    top_up(agent, "20.50")
    after = agent("billing/balance").json()
    assert after["balanceUsd"] == "45.5"
    assert after["topUp"] | {"allowed": True, "monthlyCapUsd": "100"} == after["topUp"]
    assert after["topUp"]["boughtThisMonthUsd"] == "20.5"


def test_an_outsider_sees_and_buys_for_its_own_organization_alone(
    outsider_agent, organization, allowed, stripe
):
    assert outsider_agent("billing/balance").json()["balanceUsd"] == "0"
    refused(top_up(outsider_agent), 403, "top_up_not_allowed")
    assert (bought(organization).count(), charges(stripe)) == (0, [])


# --- Whether it is allowed -----------------------------------------------------------------------
def test_it_is_off_until_somebody_allows_it(agent, organization, owner, saved, stripe):
    message = refused(top_up(agent), 403, "top_up_not_allowed")
    assert message == (
        "Workspace tokens may not buy credit for Acme. An owner can allow it: "
        f"http://localhost:8000/console/{organization.slug}/credit/"
    )
    allow(organization, owner, is_allowed=False)
    refused(top_up(agent), 403, "top_up_not_allowed")
    assert (charges(stripe), Payment.objects.filter(kind="AGENT").count()) == ([], 0)
    # A refusal is not kept: as soon as it is allowed, the same request is served.
    allow(organization, owner)
    assert top_up(agent).status_code == 200


def test_it_needs_a_saved_payment_method(agent, organization, owner, stripe):
    allow(organization, owner)
    message = refused(top_up(agent), 409, "top_up_not_possible")
    assert message.startswith("No payment method is saved. An owner saves one with a top-up")


def test_it_stays_within_its_monthly_limit(agent, organization, owner, saved, stripe):
    allow(organization, owner, 50)
    assert [top_up(agent, key=f"order-{n}").status_code for n in range(3)] == [200, 200, 409]
    message = refused(top_up(agent, "10.01", key="more"), 409, "top_up_not_possible")
    assert "Agents may buy $50.00 of credit a month (UTC); $40.00 of it is bought" in message
    assert top_up(agent, "10", key="rest").status_code == 200
    assert sorted(charges(stripe)) == [1000, 2000, 2000]


def test_without_payments_it_says_so(agent, allowed, settings):
    settings.STRIPE_API_KEY = ""
    refused(top_up(agent), 503, "payments_not_configured")


@pytest.mark.parametrize("amount", ["4.99", "10000.01", "-5", "20.001", "much", "", 20, 20.5, None])
def test_what_is_no_amount_is_refused_by_name(agent, allowed, amount, stripe):
    answer = top_up(agent, amount)
    refused(answer, 400, "invalid_request")
    assert answer.json()["error"]["field"] == "amountUsd"
    assert charges(stripe) == []


def test_the_database_refuses_a_limit_that_is_none(allowed):
    with (
        pytest.raises(IntegrityError, match="billing_agent_top_up_cap_positive"),
        transaction.atomic(),
    ):
        AgentTopUp.objects.update(monthly_cap_nanos=0)


# --- Once ----------------------------------------------------------------------------------------
def test_a_purchase_needs_a_key(agent, allowed, stripe):
    message = refused(top_up(agent, key=""), 400, "idempotency_key_required")
    assert "Send an Idempotency-Key header" in message
    assert charges(stripe) == []


def test_credit_is_bought_once_however_often_it_is_asked_for(agent, organization, allowed, stripe):
    first, again = top_up(agent), top_up(agent)
    payment = bought(organization).get()
    assert first.json() == {
        "paymentId": payment.public_id,
        "status": "succeeded",
        "amountUsd": "20",
        "availableUsd": "45",
    }
    assert (again.json(), again["Idempotent-Replayed"]) == (first.json(), "true")
    # The payment's own key outlives the kept answer.
    IdempotentRequest.objects.all().delete()
    assert top_up(agent).json() == first.json()
    refused(top_up(agent, "30.00"), 422, "idempotency_key_reused")
    assert charges(stripe) == [2000]
    assert checks.verify().is_clean


def test_another_amount_with_an_old_key_is_refused_for_ever(agent, allowed, stripe):
    top_up(agent)
    IdempotentRequest.objects.all().delete()
    refused(top_up(agent, "30.00"), 422, "idempotency_key_reused")
    assert charges(stripe) == [2000]


@pytest.mark.django_db(transaction=True)
def test_fifty_repeats_at_once_are_one_charge_and_one_entry(
    token, organization, owner, buyer, stripe
):
    buyer.buy(25, saves=True)
    allow(organization, owner)

    def ask(_: int) -> list[Any]:
        client = Client()
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "order-1"}
        body = {"amountUsd": "20.00"}
        try:
            return [
                client.post(
                    "/api/data/billing/top-up",
                    body,
                    content_type="application/json",
                    headers=headers,
                )
                for _ in range(TIMES // AT_ONCE)
            ]
        finally:
            connection.close()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = [answer for some in pool.map(ask, range(AT_ONCE)) for answer in some]
    assert len(answers) == TIMES
    assert {answer.status_code for answer in answers} <= {200, 409}
    paid = {answer.content for answer in answers if answer.status_code == 200}
    assert len(paid) == 1
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["error"]["code"] == "idempotency_in_progress"
    payment = bought(organization).get()
    assert charges(stripe) == [2000]
    assert Transfer.objects.filter(idempotency_key=f"payment:{payment.public_id}").count() == 1
    assert ledger.balance(organization).posted_nanos == 45 * DOLLAR
    assert checks.verify().is_clean


@pytest.mark.django_db(transaction=True)
def test_different_keys_at_once_stay_within_the_limit_together(
    token, organization, owner, buyer, stripe
):
    buyer.buy(25, saves=True)
    allow(organization, owner, 50)

    def ask(number: int) -> int:
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": f"order-{number}"}
        body = {"amountUsd": "20.00"}
        try:
            return (
                Client()
                .post(
                    "/api/data/billing/top-up",
                    body,
                    content_type="application/json",
                    headers=headers,
                )
                .status_code
            )
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        statuses = sorted(pool.map(ask, range(6)))
    assert statuses == [200, 200, 409, 409, 409, 409]
    assert charges(stripe) == [2000, 2000]


# --- Answers that come late, and refusals ---------------------------------------------------------
def test_an_answer_that_is_lost_is_asked_for_again_and_charged_once(
    agent, organization, allowed, stripe
):
    stripe.answers_to_lose = 10
    waiting = top_up(agent)
    assert (waiting.status_code, waiting.json()["status"]) == (202, "pending")
    stripe.answers_to_lose = 0
    # What is not decided is not kept: the same request tells how it stands by then.
    paid = top_up(agent)
    assert (paid.status_code, paid.json()["status"]) == (200, "succeeded")
    assert paid.json()["paymentId"] == waiting.json()["paymentId"]
    assert charges(stripe) == [2000]


def test_what_nobody_asks_for_again_is_asked_about_later(agent, organization, allowed, stripe):
    stripe.is_down = True
    assert top_up(agent).status_code == 202
    stripe.is_down = False
    assert auto_top_up.reconcile(timezone.now() + timedelta(hours=1)) == 1
    assert bought(organization).get().status == "SUCCEEDED"
    assert (charges(stripe), top_up(agent).json()["status"]) == ([2000], "succeeded")


def test_what_stripe_never_answered_is_left_to_staff_and_not_charged_again(
    agent, organization, allowed, stripe
):
    stripe.is_down = True
    top_up(agent)
    stripe.is_down = False
    Payment.objects.filter(kind="AGENT").update(checked_at=None)
    assert auto_top_up.reconcile(timezone.now() + payments.KEY_LIFETIME) == 1
    answer = top_up(agent)
    assert (answer.status_code, answer.json()["status"]) == (202, "review")
    assert charges(stripe) == []


def test_switched_off_an_unanswered_payment_is_not_asked_for_again(
    agent, organization, owner, allowed, stripe
):
    stripe.is_down = True
    top_up(agent)
    stripe.is_down = False
    allow(organization, owner, is_allowed=False)
    assert top_up(agent).json()["status"] == "pending"
    assert charges(stripe) == []


@pytest.mark.parametrize("card", [DECLINED_CARD, AUTHENTICATION_CARD])
def test_a_decline_says_why_and_touches_no_automatic_top_up(
    agent, organization, owner, allowed, stripe, saved, card
):
    auto_top_up.configure(
        organization,
        is_enabled=True,
        threshold_nanos=DOLLAR,
        amount_nanos=10 * DOLLAR,
        monthly_cap_nanos=50 * DOLLAR,
        by=owner,
        at=timezone.now(),
    )
    use_card(stripe, saved, card)
    for _ in range(2):  # the key's payment has failed for good
        message = refused(top_up(agent), 402, "payment_declined")
        assert message.startswith("Nothing was charged: ")
        assert message.endswith("Use a new Idempotency-Key to try again.")
    assert bought(organization).get().status == "FAILED"
    setting = AutoTopUp.objects.get()
    assert (setting.declines, setting.next_try_at, setting.is_enabled) == (0, None, True)
    assert ledger.balance(organization).posted_nanos == 25 * DOLLAR


def test_a_method_that_is_declined_again_and_again_is_left_alone_for_an_hour(
    agent, allowed, stripe, saved, monkeypatch
):
    use_card(stripe, saved, DECLINED_CARD)
    for number in range(agent_top_up.DECLINES_MAX):
        refused(top_up(agent, key=f"order-{number}"), 402, "payment_declined")
    asked = len(stripe.requests)
    message = refused(top_up(agent, key="one-more"), 409, "top_up_not_possible")
    assert "was declined 3 times within an hour" in message
    assert len(stripe.requests) == asked
    monkeypatch.setattr(agent_top_up, "DECLINES_WITHIN", timedelta(0))  # as if it were over
    refused(top_up(agent, key="one-more"), 402, "payment_declined")


def test_another_payment_method_can_be_charged_at_once(agent, allowed, stripe, saved):
    use_card(stripe, saved, DECLINED_CARD)
    for number in range(agent_top_up.DECLINES_MAX):
        top_up(agent, key=f"order-{number}")
    use_card(stripe, saved, GOOD_CARD)
    assert top_up(agent, key="one-more").status_code == 200


# --- Who switches it on --------------------------------------------------------------------------
def address(organization):
    return reverse("billing:agent-top-up", args=[organization.slug])


def test_an_owner_allows_it_in_the_console(owner_client, owner, organization, saved):
    page = reverse("billing:credit", args=[organization.slug])
    assert "Not allowed" in owner_client.get(page).content.decode()
    chosen = {"is_allowed": "on", "monthly_cap": "40"}
    answer = owner_client.post(address(organization), chosen, follow=True)
    assert "Agents may buy credit now." in answer.content.decode()
    setting = AgentTopUp.objects.get()
    assert (setting.is_allowed, setting.monthly_cap_nanos) == (True, 40 * DOLLAR)
    assert setting.changed_by == owner
    owner_client.post(address(organization), {"monthly_cap": "40"})
    assert not AgentTopUp.objects.get().is_allowed


def test_a_limit_below_the_least_purchase_is_explained(owner_client, organization, stripe):
    answer = owner_client.post(address(organization), {"is_allowed": "on", "monthly_cap": "4"})
    assert answer.status_code == 400
    assert "must be at least $5.00" in answer.content.decode()
    assert not AgentTopUp.objects.exists()


@pytest.mark.parametrize("role", ["ADMIN", "MEMBER", "BILLING", "VIEWER"])
def test_nobody_but_owners_allows_it(organization, role):
    client = Client()
    client.force_login(
        factories.make_member(organization=organization, role=role),
        backend="django.contrib.auth.backends.ModelBackend",
    )
    chosen = {"is_allowed": "on", "monthly_cap": "40"}
    assert client.post(address(organization), chosen).status_code == 403
    assert not AgentTopUp.objects.exists()


def test_outsiders_are_told_that_there_is_no_such_page(outsider_client, organization):
    chosen = {"is_allowed": "on", "monthly_cap": "40"}
    assert outsider_client.post(address(organization), chosen).status_code == 404
    assert not AgentTopUp.objects.exists()


def test_staff_allow_it_in_the_admin(organization, agent, saved):
    staff = factories.make_user(is_staff=True, is_superuser=True)
    client = Client()
    client.force_login(staff, backend="django.contrib.auth.backends.ModelBackend")
    fields = {"organization": organization.pk, "is_allowed": "on", "monthly_cap": "40"}
    assert client.post(reverse("admin:billing_agenttopup_add"), fields).status_code == 302
    setting = AgentTopUp.objects.get()
    assert (setting.monthly_cap_nanos, setting.changed_by) == (40 * DOLLAR, staff)
    assert top_up(agent).status_code == 200
    change = reverse("admin:billing_agenttopup_change", args=[setting.pk])
    assert 'value="40.00"' in client.get(change).content.decode()
    client.post(change, {"monthly_cap": "40"})
    refused(top_up(agent, key="order-2"), 403, "top_up_not_allowed")
