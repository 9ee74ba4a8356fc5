"""Auto top-up: one purchase at a time, within its limits, and it gives up after declines."""

import threading
from datetime import timedelta

import pytest
from django.core import mail
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from billing import auto_top_up, checks, ledger, payments, refunds, tasks
from billing.models import AutoTopUp, Payment, PaymentCustomer
from tests import factories
from tests.billing.conftest import at_once
from tests.stripe_server import AUTHENTICATION_CARD, DECLINED_CARD

DOLLAR = 1_000_000_000
LATER = timedelta(hours=1)
pytestmark = pytest.mark.django_db


@pytest.fixture
def saved(buyer, organization, owner):
    """$25 of credit, and a payment method that can be charged."""
    buyer.buy(25, saves=True)
    return PaymentCustomer.objects.get()


def configure(organization, owner, **changes):
    wanted = {
        "is_enabled": True,
        "threshold_nanos": 10 * DOLLAR,
        "amount_nanos": 20 * DOLLAR,
        "monthly_cap_nanos": 50 * DOLLAR,
    }
    return auto_top_up.configure(organization, **(wanted | changes), by=owner, at=timezone.now())


def make_buyer(stripe):
    """An organization without credit that buys by itself, for tests without one transaction."""
    organization = factories.make_organization()
    owner = factories.make_member(organization=organization, role="OWNER")
    customer = stripe.call("POST", "/v1/customers", name="Acme")["id"]
    PaymentCustomer.objects.create(
        organization=organization,
        provider_customer_id=customer,
        payment_method_id=stripe.save_card(customer),
        created_at=timezone.now(),
    )
    ledger.open_accounts(organization)
    configure(organization, owner, monthly_cap_nanos=1000 * DOLLAR)
    return organization


def take(organization, dollars, key="c"):
    ledger.correct(
        organization, -dollars * DOLLAR, reason="used", idempotency_key=key, at=timezone.now()
    )


def dollars(organization):
    return ledger.balance(organization).posted_nanos // DOLLAR


def charges(stripe):
    """Cents of every payment made without a person."""
    return [one["amount"] for one in stripe.intents() if one["amount"] == 2000]


def use_card(stripe, customer, number):
    method = stripe.save_card(customer.provider_customer_id, number)
    PaymentCustomer.objects.update(payment_method_id=method)


# --- Setting it up ------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"threshold_nanos": 0}, "above zero"),
        ({"amount_nanos": DOLLAR}, "Choose an amount from"),
        ({"monthly_cap_nanos": 19 * DOLLAR}, "at least one purchase"),
    ],
)
def test_values_that_make_no_sense_are_refused(organization, owner, saved, changes, says):
    with pytest.raises(auto_top_up.UnableToConfigure, match=says):
        configure(organization, owner, **changes)
    assert not AutoTopUp.objects.exists()


def test_it_needs_a_saved_payment_method(organization, owner, buyer):
    buyer.buy(25)
    with pytest.raises(auto_top_up.UnableToConfigure, match="save your payment method"):
        configure(organization, owner)
    assert not configure(organization, owner, is_enabled=False).is_enabled


def test_the_database_refuses_a_cap_below_one_purchase(organization, owner, saved):
    configure(organization, owner)
    with (
        pytest.raises(IntegrityError, match="billing_auto_top_up_amounts_make_sense"),
        transaction.atomic(),
    ):
        AutoTopUp.objects.update(monthly_cap_nanos=DOLLAR)


# --- Buying -------------------------------------------------------------------------------------
def test_credit_is_bought_when_little_is_left_and_not_before(organization, owner, saved, stripe):
    configure(organization, owner)
    take(organization, 15)
    assert tasks.buy_credit() == 0  # $10 is not below $10
    take(organization, 1, "d")
    assert tasks.buy_credit() == 1
    payment = Payment.objects.get(kind="AUTO")
    assert (payment.status, dollars(organization)) == ("SUCCEEDED", 29)
    assert (charges(stripe), tasks.buy_credit()) == ([2000], 0)
    assert checks.verify().is_clean


def test_what_calls_have_reserved_is_not_spent_yet(organization, owner, saved):
    configure(organization, owner)
    now = timezone.now()
    ledger.hold(ledger.Hold(organization.pk, 20 * DOLLAR, "h", now, now + LATER))
    assert tasks.buy_credit() == 0


def test_switched_off_it_buys_nothing(organization, owner, saved):
    configure(organization, owner, is_enabled=False)
    take(organization, 20)
    assert tasks.buy_credit() == 0
    assert auto_top_up.buy_if_low(organization.pk, at=timezone.now()) is None


def test_a_suspended_organization_is_not_charged(organization, owner, saved, stripe):
    configure(organization, owner)
    take(organization, 20)
    factories.suspend(organization, at=timezone.now())
    assert auto_top_up.buy_where_due(timezone.now()) == 0
    assert auto_top_up.buy_if_low(organization.pk, at=timezone.now()) is None
    assert charges(stripe) == []


def ask_back(payment, dollars):
    refunds.request(payment, dollars * DOLLAR, key="k", reason="", by=None, at=timezone.now())


def refund_at_stripe(payment, dollars):
    refunds.note_total(payment, dollars * DOLLAR, at=timezone.now())


def dispute(payment, dollars):
    refunds.open_dispute(payment, "dp_1", dollars * DOLLAR, at=timezone.now())


@pytest.mark.parametrize("send_back", [ask_back, refund_at_stripe, dispute])
@pytest.mark.parametrize(("dollars", "is_enabled"), [(15, True), (16, False)])
def test_what_goes_back_is_not_bought_again(
    organization, owner, saved, stripe, send_back, dollars, is_enabled
):
    configure(organization, owner)
    send_back(Payment.objects.get(), dollars)
    assert AutoTopUp.objects.get().is_enabled == is_enabled
    assert auto_top_up.buy_where_due(timezone.now()) == 0
    assert charges(stripe) == []


def test_it_stays_within_its_monthly_limit(organization, owner, saved, stripe):
    configure(organization, owner, threshold_nanos=1000 * DOLLAR)
    now = timezone.now().replace(day=20)
    for _ in range(4):
        auto_top_up.buy_where_due(now)
    assert charges(stripe) == [2000, 2000]
    assert auto_top_up.buy_where_due(now + timedelta(days=20)) == 1


def test_without_its_payment_method_it_switches_itself_off(organization, owner, saved):
    configure(organization, owner)
    PaymentCustomer.objects.update(payment_method_id="")
    take(organization, 20)
    assert tasks.buy_credit() == 0
    assert not AutoTopUp.objects.get().is_enabled


def test_one_organization_never_pays_for_another(organization, owner, saved, other_organization):
    configure(organization, owner)
    factories.make_credit(organization=other_organization, nanos=DOLLAR)
    assert tasks.buy_credit() == 0


# --- Answers that come late or never ------------------------------------------------------------
def test_a_lost_answer_is_asked_for_again_and_charged_once(organization, owner, saved, stripe):
    configure(organization, owner)
    take(organization, 20)
    stripe.answers_to_lose = 2
    assert tasks.buy_credit() == 1
    waiting = Payment.objects.get(kind="AUTO")
    assert (waiting.status, dollars(organization)) == ("PENDING", 5)
    assert tasks.buy_credit() == 0  # one at a time
    assert auto_top_up.reconcile(timezone.now()) == 0  # too early to ask
    assert auto_top_up.reconcile(timezone.now() + LATER) == 1
    assert (charges(stripe), dollars(organization)) == ([2000], 25)


def test_a_payment_that_the_bank_decides_later_is_looked_at(organization, owner, saved, stripe):
    configure(organization, owner)
    take(organization, 20)
    stripe.answers_to_lose = 2
    tasks.buy_credit()
    made = next(one["id"] for one in stripe.intents() if one["amount"] == 2000)
    Payment.objects.filter(kind="AUTO").update(provider_payment_id=made)
    stripe.is_down = True
    auto_top_up.reconcile(timezone.now() + LATER)
    assert dollars(organization) == 5
    stripe.is_down = False
    auto_top_up.reconcile(timezone.now() + 3 * LATER)
    assert (charges(stripe), dollars(organization)) == ([2000], 25)


def test_an_answer_that_never_came_is_for_staff(organization, owner, saved, stripe):
    configure(organization, owner)
    take(organization, 20)
    stripe.is_down = True
    tasks.buy_credit()
    auto_top_up.reconcile(timezone.now() + timedelta(days=2))
    payment = Payment.objects.get(kind="AUTO")
    assert (payment.status, charges(stripe)) == ("REVIEW", [])
    assert "never answered" in payment.attention


# --- Declines -----------------------------------------------------------------------------------
def test_after_a_decline_it_waits_twice_as_long_each_time_and_then_gives_up(
    organization, owner, saved, stripe, django_capture_on_commit_callbacks
):
    configure(organization, owner)
    take(organization, 20)
    use_card(stripe, saved, DECLINED_CARD)
    now = timezone.now()
    waits = []
    with django_capture_on_commit_callbacks(execute=True):
        for _ in range(auto_top_up.DECLINES_MAX):
            assert auto_top_up.buy_where_due(now) == 1
            setting = AutoTopUp.objects.get()
            waits.append((setting.next_try_at - now) // LATER)
            assert auto_top_up.buy_where_due(setting.next_try_at - timedelta(seconds=1)) == 0
            now = setting.next_try_at
    assert waits == [1, 2, 4, 8]
    assert not setting.is_enabled
    assert auto_top_up.buy_where_due(now + timedelta(days=1)) == 0
    assert {payment.failure for payment in Payment.objects.filter(kind="AUTO")} == {
        "Your card was declined."
    }
    [letter] = mail.outbox
    assert letter.to == [owner.email]
    assert "switched off" in letter.subject
    assert f"/console/{organization.slug}/" in letter.body
    assert dollars(organization) == 5


def test_a_bank_that_wants_confirmation_is_a_decline_nobody_can_complete(
    organization, owner, saved, stripe
):
    configure(organization, owner)
    take(organization, 20)
    use_card(stripe, saved, AUTHENTICATION_CARD)
    tasks.buy_credit()
    payment = Payment.objects.get(kind="AUTO")
    assert (payment.status, payment.failure) == (
        "FAILED",
        "The bank wants its customer to confirm.",
    )
    states = {one["id"]: one["status"] for one in stripe.intents()}
    assert states[payment.provider_payment_id] == "canceled"


def test_a_success_forgets_the_declines(organization, owner, saved, stripe):
    configure(organization, owner)
    take(organization, 20)
    good = PaymentCustomer.objects.get().payment_method_id
    use_card(stripe, saved, DECLINED_CARD)
    now = timezone.now()
    auto_top_up.buy_where_due(now)
    PaymentCustomer.objects.update(payment_method_id=good)
    assert auto_top_up.buy_where_due(now + LATER) == 1
    setting = AutoTopUp.objects.get()
    assert (setting.declines, setting.next_try_at) == (0, None)


def test_setting_it_up_anew_tries_at_once(organization, owner, saved, stripe):
    configure(organization, owner)
    take(organization, 20)
    use_card(stripe, saved, DECLINED_CARD)
    tasks.buy_credit()
    configure(organization, owner)
    assert tasks.buy_credit() == 1


# --- One at a time ------------------------------------------------------------------------------
def test_the_database_refuses_a_second_open_purchase(organization):
    fields = {
        "organization": organization,
        "kind": "AUTO",
        "amount_nanos": DOLLAR,
        "created_at": timezone.now(),
    }
    Payment.objects.create(**fields, idempotency_key="a")
    with (
        pytest.raises(IntegrityError, match=r"one_open_auto|payment\.organization_id"),
        transaction.atomic(),
    ):
        Payment.objects.create(**fields, idempotency_key="b")


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(connection.vendor == "sqlite", reason="one writer at a time anyway")
def test_a_purchase_paid_between_looking_and_buying_is_not_made_again(stripe, monkeypatch):
    """Two workers see an empty account, and the first one's purchase is paid before the second's
    begins."""
    organization = make_buyer(stripe)
    monkeypatch.setattr(auto_top_up, "charge", lambda payment, *, at: None)
    first = auto_top_up.buy_if_low(organization.pk, at=timezone.now())
    remember = auto_top_up._remember

    def be_paid():
        payments.credit(
            first, amount_nanos=20 * DOLLAR, provider_payment_id="pi_1", at=timezone.now()
        )
        connection.close()

    def remember_late(*arguments):
        other = threading.Thread(target=be_paid)
        other.start()
        other.join()
        return remember(*arguments)

    monkeypatch.setattr(auto_top_up, "_remember", remember_late)
    assert auto_top_up.buy_if_low(organization.pk, at=timezone.now()) is None
    assert list(organization.payments.all()) == [first]
    assert dollars(organization) == 20


@pytest.mark.django_db(transaction=True)
def test_many_workers_at_once_buy_once(stripe):
    organization = make_buyer(stripe)
    at_once(tasks.buy_credit)
    assert (charges(stripe), dollars(organization)) == ([2000], 20)
