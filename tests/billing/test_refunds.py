"""Refunds: held, asked for once, posted or released; only unspent purchased credit; disputes."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import checks, grants, ledger, payments, refunds, stripe_api
from billing.models import Payment, Refund
from tests import factories
from tests.billing.conftest import Buyer, at_once

DOLLAR = 1_000_000_000
LATER = timedelta(hours=1)
pytestmark = pytest.mark.django_db


@pytest.fixture
def payment(buyer):
    return buyer.buy(25)


def figures(organization):
    balance = ledger.balance(organization)
    return balance.posted_nanos // DOLLAR, balance.held_nanos // DOLLAR


def request(payment, dollars, key="form"):
    return refunds.request(
        payment, int(dollars * DOLLAR), key=key, reason="asked", by=None, at=timezone.now()
    )


def ask(refund, at=None):
    refunds.ask(refund, at=at or timezone.now())
    refund.refresh_from_db()
    return refund


def spend(organization, dollars, key="call"):
    now = timezone.now()
    hold_id = ledger.hold(
        ledger.Hold(organization.pk, dollars * DOLLAR, f"{key}:h", now, now + LATER)
    )
    ledger.settle(
        ledger.Settlement(organization.pk, hold_id, dollars * DOLLAR, dollars * DOLLAR, key, now)
    )


# --- The two phases -----------------------------------------------------------------------------
def test_a_refund_is_held_then_posted(payment, organization, stripe):
    refund = request(payment, 10)
    assert figures(organization) == (25, 10)
    assert (refund.hold.code, refund.hold.credit_account.kind) == ("REFUND", "PAYMENTS_CLEARING")
    assert stripe.refunds() == []
    ask(refund)
    assert (refund.status, figures(organization)) == ("SUCCEEDED", (15, 0))
    assert [one["amount"] for one in stripe.refunds()] == [1000]
    assert checks.verify().is_clean


def test_what_is_on_its_way_back_cannot_be_spent(payment, organization):
    request(payment, 20)
    with pytest.raises(ledger.UnableToHold):
        spend(organization, 6)


def test_the_same_form_twice_is_one_refund(payment, organization, stripe):
    refund = request(payment, 10)
    assert request(payment, 10) == refund
    with pytest.raises(refunds.UnableToRefund, match="another amount"):
        request(payment, 11)
    ask(refund)
    ask(refund)
    assert len(stripe.refunds()) == 1
    assert figures(organization) == (15, 0)


def test_a_lost_answer_is_asked_for_again_with_the_same_key(payment, organization, stripe):
    stripe.answers_to_lose = 2
    refund = ask(request(payment, 10))
    assert (refund.status, figures(organization)) == ("REQUESTED", (25, 10))
    assert refunds.ask_again(timezone.now()) == 0  # too early
    assert refunds.ask_again(timezone.now() + LATER) == 0
    refund.refresh_from_db()
    assert (refund.status, figures(organization)) == ("SUCCEEDED", (15, 0))
    assert len(stripe.refunds()) == 1


def test_while_stripe_is_down_a_refund_waits(payment, organization, stripe):
    stripe.is_down = True
    ask(request(payment, 10))
    assert refunds.ask_again(timezone.now() + LATER) == 1
    stripe.is_down = False
    assert refunds.ask_again(timezone.now() + LATER) == 0
    assert figures(organization) == (15, 0)


def test_after_stripe_forgot_the_key_it_is_looked_for_before_it_is_asked_again(
    payment, organization, stripe
):
    stripe.answers_to_lose = 2
    refund = ask(request(payment, 10))
    stripe.answers.clear()
    refunds.ask_again(timezone.now() + timedelta(days=2))
    refund.refresh_from_db()
    assert (refund.status, len(stripe.refunds())) == ("SUCCEEDED", 1)


def test_a_refusal_gives_the_credit_back(payment, organization, stripe):
    Payment.objects.filter(pk=payment.pk).update(provider_payment_id="pi_unknown")
    refund = ask(request(payment, 10))
    assert (refund.status, figures(organization)) == ("FAILED", (25, 0))
    assert refund.failure
    ask(request(payment, 25, key="again"))
    assert checks.verify().is_clean


def state(refund, status, amount=None):
    nanos = refund.amount_nanos if amount is None else amount
    return stripe_api.RefundState("re_1", status, nanos, "pi", refund.public_id, "lost_or_stolen")


def test_a_refund_that_is_pending_at_stripe_stays_held(payment, organization):
    refund = request(payment, 10)
    refunds.apply(refund, state(refund, "pending"), at=timezone.now())
    refund.refresh_from_db()
    assert (refund.status, refund.provider_refund_id) == ("REQUESTED", "re_1")
    refunds.apply(refund, state(refund, "failed"), at=timezone.now())
    assert figures(organization) == (25, 0)
    refunds.apply(refund, state(refund, "succeeded"), at=timezone.now())
    assert figures(organization) == (25, 0)  # it has ended


def test_a_refund_that_comes_back_after_it_was_done_is_for_staff(payment, organization):
    refund = request(payment, 10)
    refunds.apply(refund, state(refund, "succeeded"), at=timezone.now())
    refunds.apply(refund, state(refund, "failed"), at=timezone.now())
    payment.refresh_from_db()
    assert "came back" in payment.attention
    assert figures(organization) == (15, 0)


@pytest.mark.parametrize("amount", [9 * DOLLAR, 0])
def test_another_amount_at_stripe_is_flagged(payment, organization, amount):
    refund = request(payment, 10)
    refunds.apply(refund, state(refund, "succeeded", amount), at=timezone.now())
    payment.refresh_from_db()
    assert "another amount" in payment.attention
    assert figures(organization) == (25, 10)


# --- How much -----------------------------------------------------------------------------------
def test_only_what_is_unspent_is_refunded(payment, organization):
    spend(organization, 5)
    assert refunds.refundable_nanos(payment) == 20 * DOLLAR
    with pytest.raises(refunds.UnableToRefund, match=r"\$20\.00 of this payment"):
        request(payment, 21)
    request(payment, 20)
    assert refunds.refundable_nanos(payment) == 0


def test_promotions_are_not_refunded_and_are_spent_before_what_was_bought(payment, organization):
    factories.make_credit(organization=organization, nanos=10 * DOLLAR)
    assert refunds.refundable_nanos(payment) == 25 * DOLLAR
    spend(organization, 10)
    assert refunds.refundable_nanos(payment) == 25 * DOLLAR
    spend(organization, 1, "more")
    assert refunds.refundable_nanos(payment) == 24 * DOLLAR


def test_a_refund_leaves_promotions_untouched(payment, organization):
    factories.make_credit(organization=organization, nanos=10 * DOLLAR)
    ask(request(payment, 25))
    assert figures(organization) == (10, 0)
    assert grants.remaining_nanos(organization.pk) == 10 * DOLLAR
    assert checks.verify().is_clean


def test_the_oldest_payment_is_spent_first(buyer, organization):
    first, second = buyer.buy(10), buyer.buy(10)
    spend(organization, 12)
    assert refunds.refundable_nanos(first) == 0
    assert refunds.refundable_nanos(second) == 8 * DOLLAR
    ask(request(second, 8))
    assert refunds.refundable_nanos(second) == 0


def test_what_calls_have_reserved_is_not_refunded(payment, organization):
    now = timezone.now()
    ledger.hold(ledger.Hold(organization.pk, 20 * DOLLAR, "h", now, now + LATER))
    assert refunds.refundable_nanos(payment) == 5 * DOLLAR


def test_credit_that_was_not_bought_with_this_payment_is_not_refunded(payment, organization):
    ledger.correct(organization, 9 * DOLLAR, reason="x", idempotency_key="c", at=timezone.now())
    assert refunds.refundable_nanos(payment) == 25 * DOLLAR


@pytest.mark.parametrize("dollars", [0, -1, 0.001])
def test_a_refund_is_above_zero_and_in_whole_cents(payment, dollars):
    with pytest.raises(refunds.UnableToRefund, match="whole cents"):
        request(payment, dollars)


def test_a_payment_that_was_not_paid_has_nothing_to_refund(buyer):
    assert refunds.refundable_nanos(buyer.start(25)) == 0


# --- What leaves without our asking -------------------------------------------------------------
def owed(organization):
    return ledger.owed_nanos(organization.pk) // DOLLAR


def test_a_refund_made_at_stripe_takes_the_credit_once(payment, organization):
    for _ in range(2):
        refunds.note_total(payment, 10 * DOLLAR, at=timezone.now())
    assert figures(organization) == (15, 0)
    refunds.note_total(payment, 25 * DOLLAR, at=timezone.now())
    assert figures(organization) == (0, 0)
    assert list(Refund.objects.values_list("is_external", "status")) == [(True, "SUCCEEDED")] * 2
    assert checks.verify().is_clean


def test_a_refund_of_ours_is_not_taken_for_one_made_at_stripe(payment, organization):
    ask(request(payment, 10))
    refunds.note_total(payment, 10 * DOLLAR, at=timezone.now())
    assert (Refund.objects.count(), figures(organization)) == (1, (15, 0))


def test_what_was_spent_before_a_refund_at_stripe_is_owed(payment, organization):
    spend(organization, 20)
    refunds.note_total(payment, 25 * DOLLAR, at=timezone.now())
    assert (figures(organization), owed(organization)) == ((0, 0), 20)
    factories.make_credit(organization=organization, nanos=30 * DOLLAR)
    assert (figures(organization), owed(organization)) == ((10, 0), 0)


def test_a_dispute_takes_the_credit_and_blocks_refunds(payment, organization):
    for _ in range(2):
        refunds.open_dispute(payment, "dp_1", 25 * DOLLAR, at=timezone.now())
    payment.refresh_from_db()
    assert payment.disputed_at is not None
    assert "dp_1" in payment.attention
    assert figures(organization) == (0, 0)
    assert refunds.refundable_nanos(payment) == 0
    assert checks.verify().is_clean


@pytest.mark.parametrize(("is_won", "left"), [(True, 5), (False, 0)])
def test_a_dispute_that_is_won_gives_the_credit_again(payment, organization, is_won, left):
    spend(organization, 20)
    refunds.open_dispute(payment, "dp_1", 25 * DOLLAR, at=timezone.now())
    assert (figures(organization), owed(organization)) == ((0, 0), 20)
    for _ in range(2):
        refunds.close_dispute(payment, "dp_1", is_won=is_won, at=timezone.now())
    assert (figures(organization), owed(organization)) == ((left, 0), 0 if is_won else 20)
    payment.refresh_from_db()
    assert (payment.disputed_at is None) == is_won


def test_a_dispute_takes_promotions_only_when_nothing_else_is_left(payment, organization):
    factories.make_credit(organization=organization, nanos=10 * DOLLAR)
    refunds.open_dispute(payment, "dp_1", 25 * DOLLAR, at=timezone.now())
    assert grants.remaining_nanos(organization.pk) == 10 * DOLLAR
    assert figures(organization) == (10, 0)
    assert checks.verify().is_clean


def test_another_ones_credit_pays_for_nothing(payment, other_organization):
    factories.make_credit(organization=other_organization, nanos=10 * DOLLAR)
    refunds.open_dispute(payment, "dp_1", 25 * DOLLAR, at=timezone.now())
    assert figures(other_organization) == (10, 0)
    assert payments.find(reference=payment.public_id) == payment


def test_staff_refund_in_the_admin_with_a_reason(payment, organization, stripe):
    staff = factories.make_user(is_staff=True, is_superuser=True)
    client = Client()
    client.force_login(staff, backend="django.contrib.auth.backends.ModelBackend")
    url = reverse("admin:billing_payment_refund", args=[payment.pk])
    data = {"amount": "10", "reason": "asked by phone", "idempotency_key": "k"}
    for _ in range(2):
        assert client.post(url, data).status_code == 302
    refund = Refund.objects.get()
    assert (refund.reason, refund.requested_by) == ("asked by phone", staff)
    assert (len(stripe.refunds()), figures(organization)) == (1, (15, 0))


# --- Races ----------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_of_many_refunds_at_once_only_what_fits_is_held(stripe):
    organization = factories.make_organization()
    payment = Buyer(organization, stripe).buy(25)
    numbers = iter(range(4))
    outcomes = at_once(lambda: request(payment, 10, key=f"form {next(numbers)}"))
    assert sorted(type(one).__name__ for one in outcomes) == [
        "Refund",
        "Refund",
        "UnableToRefund",
        "UnableToRefund",
    ]
    assert figures(organization) == (25, 20)


@pytest.mark.django_db(transaction=True)
def test_one_refund_asked_for_by_many_at_once_is_sent_once(stripe):
    organization = factories.make_organization()
    refund = request(Buyer(organization, stripe).buy(25), 10)
    assert at_once(lambda: refunds.ask(refund, at=timezone.now())) == [None] * 4
    assert (len(stripe.refunds()), figures(organization)) == (1, (15, 0))
