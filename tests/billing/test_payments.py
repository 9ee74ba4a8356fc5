"""Buying credit: asked of Stripe once, credited once and only for money that is there."""

from datetime import timedelta

import pytest
from django.utils import timezone

from billing import checks, ledger, payments, stripe_api
from billing.models import Payment, PaymentCustomer, Transfer
from tests import factories, stripe_server
from tests.billing.conftest import Buyer, at_once

DOLLAR = 1_000_000_000
LATER = timedelta(hours=1)
pytestmark = pytest.mark.django_db


def available(organization):
    return ledger.balance(organization).available_nanos


# --- Starting -----------------------------------------------------------------------------------
def test_a_checkout_leads_to_stripe_and_credits_nothing_yet(buyer, organization):
    payment = buyer.start(25)
    session = buyer.stripe.sessions[payment.provider_session_id]
    assert payment.checkout_url == session["url"]
    assert (session["amount_total"], session["currency"]) == (2500, "usd")
    assert session["client_reference_id"] == payment.public_id
    assert payment.status == "PENDING"
    assert available(organization) == 0


def test_sending_the_form_twice_opens_one_checkout(buyer):
    first, second = buyer.start(25, key="k"), buyer.start(25, key="k")
    assert first == second
    assert len(buyer.stripe.sessions) == 1


def test_the_same_form_with_another_amount_is_refused(buyer):
    buyer.start(25, key="k")
    with pytest.raises(payments.UnableToTopUp, match="other values"):
        buyer.start(50, key="k")


def test_a_lost_answer_is_asked_for_again_with_the_same_key(buyer):
    buyer.start(5)  # makes the customer, so that the next answer is the Checkout's
    buyer.stripe.answers_to_lose = 2  # the library tries twice
    with pytest.raises(stripe_api.UnableToReachStripe):
        buyer.start(25, key="k")
    payment = buyer.start(25, key="k")
    sessions = [one for one in buyer.stripe.sessions.values() if one["amount_total"] == 2500]
    assert [one["id"] for one in sessions] == [payment.provider_session_id]


def test_an_organization_is_one_customer(buyer, organization):
    buyer.start(5)
    buyer.start(6)
    customer = PaymentCustomer.objects.get()
    assert {one["customer"] for one in buyer.stripe.sessions.values()} == {
        customer.provider_customer_id
    }
    made = [path for method, path, _ in buyer.stripe.requests if path == "/v1/customers"]
    assert len(made) == 1


@pytest.mark.parametrize("nanos", [0, -5 * DOLLAR, 4 * DOLLAR, 10_001 * DOLLAR, 5 * DOLLAR + 1])
def test_an_amount_outside_what_may_be_bought_is_refused(organization, stripe, nanos):
    with pytest.raises(payments.UnableToTopUp):
        payments.start_checkout(
            organization,
            nanos,
            key="k",
            saves_payment_method=False,
            return_url="http://localhost/",
            by=None,
            at=timezone.now(),
        )
    assert not Payment.objects.exists()
    assert stripe.requests == []


def test_without_a_key_nothing_is_asked(buyer, settings):
    settings.STRIPE_API_KEY = ""
    with pytest.raises(stripe_api.PaymentsNotConfigured):
        buyer.start(25)
    assert buyer.stripe.requests == []


def test_a_wrong_key_is_told_without_naming_it(buyer, settings):
    settings.STRIPE_API_KEY = "sk_test_wrongwrongwrong"
    with pytest.raises(stripe_api.UnableToReachStripe) as error:
        buyer.start(25)
    assert "wrong" not in str(error.value)


# --- Crediting ----------------------------------------------------------------------------------
def test_a_lost_webhook_loses_nothing(buyer, organization):
    payment = buyer.start(25)
    buyer.stripe.pay(payment.provider_session_id)
    assert payments.reconcile(timezone.now()) == 0  # too early to ask
    assert payments.reconcile(timezone.now() + LATER) == 1
    payment.refresh_from_db()
    assert (payment.status, payment.transfer.code) == ("SUCCEEDED", "TOPUP")
    assert payment.transfer.debit_account.kind == "PAYMENTS_CLEARING"
    assert available(organization) == 25 * DOLLAR
    assert payments.reconcile(timezone.now() + 2 * LATER) == 0
    assert available(organization) == 25 * DOLLAR
    assert checks.verify().is_clean


def test_a_declined_card_leaves_the_checkout_open(buyer, organization):
    payment = buyer.start(25)
    buyer.stripe.pay(payment.provider_session_id, stripe_server.DECLINED_CARD)
    assert payments.reconcile(timezone.now() + LATER) == 0
    buyer.stripe.pay(payment.provider_session_id)
    assert payments.reconcile(timezone.now() + 2 * LATER) == 1
    assert available(organization) == 25 * DOLLAR


def test_a_checkout_that_expired_is_over(buyer, organization):
    payment = buyer.start(25)
    buyer.stripe.sessions[payment.provider_session_id]["status"] = "expired"
    payments.reconcile(timezone.now() + LATER)
    payment.refresh_from_db()
    assert payment.status == "EXPIRED"
    with pytest.raises(payments.UnableToTopUp, match="over"):
        buyer.start(25, key="form 1")


def test_a_checkout_nobody_got_to_is_over_after_a_day(buyer):
    buyer.start(5)
    buyer.stripe.is_down = True
    with pytest.raises(stripe_api.UnableToReachStripe):
        buyer.start(25, key="k")
    buyer.stripe.is_down = False
    payments.reconcile(timezone.now() + LATER)
    lost = Payment.objects.get(provider_session_id=None)
    assert lost.status == "PENDING"
    payments.reconcile(timezone.now() + timedelta(days=2))
    lost.refresh_from_db()
    assert lost.status == "EXPIRED"


def test_while_stripe_is_down_payments_wait(buyer, organization):
    payment = buyer.start(25)
    buyer.stripe.pay(payment.provider_session_id)
    buyer.stripe.is_down = True
    assert payments.reconcile(timezone.now() + LATER) == 0
    buyer.stripe.is_down = False
    assert payments.reconcile(timezone.now() + LATER) == 1
    assert available(organization) == 25 * DOLLAR


def credit(payment, nanos, intent="pi_1"):
    return payments.credit(
        payment, amount_nanos=nanos, provider_payment_id=intent, at=timezone.now()
    )


def test_a_payment_is_credited_once_whoever_tells(buyer, organization):
    payment = buyer.start(25)
    assert credit(payment, 25 * DOLLAR) == "Credited $25.00."
    assert credit(payment, 25 * DOLLAR) == "Credited before."
    assert Transfer.objects.filter(code="TOPUP").count() == 1


@pytest.mark.parametrize("nanos", [24 * DOLLAR, 26 * DOLLAR, None])
def test_another_amount_or_currency_is_flagged_and_not_credited(buyer, organization, nanos):
    payment = buyer.start(25)
    credit(payment, nanos)
    payment.refresh_from_db()
    assert payment.status == "REVIEW"
    assert "expected $25.00" in payment.attention
    assert available(organization) == 0


def test_a_second_payment_for_one_checkout_is_flagged(buyer, organization):
    payment = buyer.start(25)
    credit(payment, 25 * DOLLAR, "pi_1")
    credit(payment, 25 * DOLLAR, "pi_2")
    payment.refresh_from_db()
    assert "second time (pi_2)" in payment.attention
    assert available(organization) == 25 * DOLLAR


def test_money_that_comes_after_we_gave_up_is_credited(buyer, organization):
    payment = buyer.start(25)
    payments.end(payment, Payment.Status.EXPIRED, at=timezone.now())
    credit(payment, 25 * DOLLAR)
    assert available(organization) == 25 * DOLLAR


def test_bought_credit_pays_what_is_owed_first(buyer, organization):
    now = timezone.now()
    ledger.settle(ledger.Settlement(organization.pk, None, 0, 3 * DOLLAR, "call", now))
    buyer.buy(25)
    assert available(organization) == 22 * DOLLAR


# --- Saved payment methods ----------------------------------------------------------------------
def test_a_payment_method_is_saved_when_it_was_asked_for(buyer, organization):
    buyer.buy(25)
    assert PaymentCustomer.objects.get().payment_method_id == ""
    buyer.buy(25, saves=True)
    assert PaymentCustomer.objects.get().payment_method_id.startswith("pm_")
    assert payments.label_payment_methods() == 1
    assert PaymentCustomer.objects.get().payment_method_label == "visa ending in 4242"
    assert payments.label_payment_methods() == 0


def test_payments_are_found_by_our_name_before_stripes(buyer):
    first, second = buyer.start(5), buyer.start(6)
    Payment.objects.filter(pk=second.pk).update(provider_payment_id="pi_x")
    assert payments.find(reference=first.public_id, provider_payment_id="pi_x") == first
    assert payments.find(reference="", provider_payment_id="pi_x") == second
    assert payments.find(reference="", provider_payment_id="") is None
    assert payments.find(reference="pay_unknown", provider_payment_id="pi_y") is None


def test_nobody_is_credited_for_another(buyer, other_organization):
    buyer.buy(25)
    assert available(other_organization) == 0


# --- Races ----------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_a_payment_told_of_by_many_at_once_is_credited_once(stripe):
    buyer = Buyer(factories.make_organization(), stripe)
    payment = buyer.start(25)
    outcomes = at_once(lambda: credit(payment, 25 * DOLLAR))
    assert sorted(outcomes) == ["Credited $25.00.", *["Credited before."] * 3]
    assert available(buyer.organization) == 25 * DOLLAR


@pytest.mark.django_db(transaction=True)
def test_a_form_sent_many_times_at_once_opens_one_checkout(stripe):
    buyer = Buyer(factories.make_organization(), stripe)
    buyer.start(5)
    assert len(set(at_once(lambda: buyer.start(25, key="k").pk))) == 1
    assert len([one for one in stripe.sessions.values() if one["amount_total"] == 2500]) == 1
