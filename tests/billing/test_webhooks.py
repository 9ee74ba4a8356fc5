"""Stripe's messages: only signed ones, stored as they came, handled once, in any order."""

import json
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import checks, ledger, payment_events, payments, refunds, tasks
from billing.models import Payment, PaymentCustomer, PaymentEvent, Transfer
from billing.webhooks import BODY_BYTES_MAX
from tests.stripe_server import WEBHOOK_SECRET, event, signature

DOLLAR = 1_000_000_000
pytestmark = pytest.mark.django_db
URL = "/webhooks/stripe"


def post(body, sign=signature, **headers):
    if sign is not None:
        headers["Stripe-Signature"] = sign(body)
    return Client(enforce_csrf_checks=True).post(
        URL, data=body, content_type="application/json", headers=headers
    )


def send(kind, data, id=""):
    """A signed message that is accepted; its outcome."""
    answer = post(event(kind, data, id=id))
    assert answer.status_code == 200, answer.content
    return answer.json()["outcome"]


def session_of(payment, **changes):
    return {
        "id": payment.provider_session_id,
        "object": "checkout.session",
        "status": "complete",
        "payment_status": "paid",
        "payment_intent": "pi_1",
        "amount_total": payment.amount_nanos // 10_000_000,
        "currency": "usd",
        "metadata": {"reference": payment.public_id},
        **changes,
    }


def intent_of(payment, **changes):
    return {
        "id": "pi_1",
        "object": "payment_intent",
        "status": "succeeded",
        "amount": payment.amount_nanos // 10_000_000,
        "amount_received": payment.amount_nanos // 10_000_000,
        "currency": "usd",
        "payment_method": "pm_1",
        "metadata": {"reference": payment.public_id},
        **changes,
    }


def charge_of(**changes):
    return {
        "id": "ch_1",
        "object": "charge",
        "payment_intent": "pi_1",
        "currency": "usd",
        "amount_refunded": 1000,
        **changes,
    }


def dispute_of(**changes):
    return {
        "id": "dp_1",
        "object": "dispute",
        "payment_intent": "pi_1",
        "currency": "usd",
        "amount": 2500,
        "status": "needs_response",
        **changes,
    }


@pytest.fixture
def payment(buyer):
    return buyer.start(25, saves=True)


def dollars(organization):
    return ledger.balance(organization).posted_nanos / DOLLAR


# --- Who is believed ----------------------------------------------------------------------------
def test_without_a_secret_nothing_is_believed_and_the_operator_is_told_why(
    payment, settings, organization
):
    body = event("checkout.session.completed", session_of(payment))
    for secret in ("", "   "):
        settings.STRIPE_WEBHOOK_SECRET = secret
        answer = post(body, sign=lambda body, secret=secret: signature(body, secret))
        assert answer.status_code == 503
        assert "STRIPE_WEBHOOK_SECRET" in answer.json()["error"]["message"]
    assert not PaymentEvent.objects.exists()
    assert dollars(organization) == 0


@pytest.mark.parametrize(
    "sign",
    [
        None,
        lambda body: "",
        lambda body: "t=1,v1=0",
        lambda body: signature(body, "whsec_another"),
        lambda body: signature(body + " "),
        lambda body: signature(body, age_seconds=3600),
        lambda body: signature(body).replace("v1=", "v0="),
    ],
    ids=["none", "empty", "nonsense", "other secret", "other body", "old", "other scheme"],
)
def test_a_forged_or_old_signature_is_refused(payment, organization, sign):
    answer = post(event("checkout.session.completed", session_of(payment)), sign=sign)
    assert answer.status_code == 400
    assert WEBHOOK_SECRET not in answer.content.decode()
    assert not PaymentEvent.objects.exists()
    assert dollars(organization) == 0


@pytest.mark.parametrize("body", ["", "{", "[]", "{}", '{"id": "evt_1", "type": "x"}', "1"])
def test_a_signed_body_that_is_no_event_is_refused(stripe, body):
    assert post(body).status_code == 400


def test_bytes_that_are_no_text_are_refused(stripe):
    answer = Client().post(
        URL, data=b"\xff\xfe", content_type="application/json", headers={"Stripe-Signature": "t=1"}
    )
    assert answer.status_code == 400


def test_a_body_that_is_too_large_is_refused_before_it_is_looked_at(stripe):
    answer = post(" " * (BODY_BYTES_MAX + 1))
    assert answer.status_code == 413


def test_only_post_is_answered(stripe):
    assert Client().get(reverse("stripe-webhook")).status_code == 405


# --- Payments -----------------------------------------------------------------------------------
def test_a_completed_checkout_is_credited_and_its_message_kept(payment, organization):
    body = event("checkout.session.completed", session_of(payment), id="evt_1")
    assert post(body).json() == {"received": "evt_1", "outcome": "Credited $25.00."}
    stored = PaymentEvent.objects.get()
    assert (stored.payload, stored.payment) == (body, payment)
    assert dollars(organization) == 25
    assert checks.verify().is_clean


def test_a_message_repeated_is_handled_once(payment, organization):
    for _ in range(3):
        send("checkout.session.completed", session_of(payment), id="evt_1")
    assert PaymentEvent.objects.count() == 1
    assert dollars(organization) == 25


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_checkout_and_payment_tell_of_one_payment_in_any_order(payment, organization, order):
    messages = [
        ("checkout.session.completed", session_of(payment)),
        ("payment_intent.succeeded", intent_of(payment)),
    ]
    for number in order:
        send(*messages[number])
    assert dollars(organization) == 25
    assert Transfer.objects.filter(code="TOPUP").count() == 1
    assert PaymentCustomer.objects.get().payment_method_id == "pm_1"


def test_a_checkout_whose_money_is_on_its_way_is_credited_when_it_arrives(payment, organization):
    send("checkout.session.completed", session_of(payment, payment_status="unpaid"))
    assert dollars(organization) == 0
    send("checkout.session.async_payment_succeeded", session_of(payment))
    assert dollars(organization) == 25


def test_money_that_did_not_arrive_ends_the_checkout(payment, organization):
    send("checkout.session.async_payment_failed", session_of(payment, payment_status="unpaid"))
    payment.refresh_from_db()
    assert (payment.status, dollars(organization)) == ("EXPIRED", 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"amount_total": 2400},
        {"amount_total": 250_000},
        {"currency": "eur"},
        {"currency": "jpy", "amount_total": 2500},
        {"amount_total": None},
    ],
)
def test_what_was_not_asked_for_is_flagged_and_not_credited(payment, organization, changes):
    send("checkout.session.completed", session_of(payment, **changes))
    payment.refresh_from_db()
    assert (payment.status, dollars(organization)) == ("REVIEW", 0)
    assert payment.attention


def test_an_amount_that_is_authorized_but_not_received_is_not_credited(payment, organization):
    send("payment_intent.succeeded", intent_of(payment, amount_received=0))
    assert dollars(organization) == 0


def test_a_message_that_calls_an_unpaid_payment_succeeded_is_not_believed(payment, organization):
    send("payment_intent.succeeded", intent_of(payment, status="requires_capture"))
    assert dollars(organization) == 0


def test_a_declined_try_is_noted_and_the_next_one_credited(payment, organization):
    failed = intent_of(payment, status="requires_payment_method")
    failed["last_payment_error"] = {"message": "Your card was declined."}
    send("payment_intent.payment_failed", failed)
    payment.refresh_from_db()
    assert (payment.status, payment.failure) == ("PENDING", "Your card was declined.")
    send("payment_intent.succeeded", intent_of(payment))
    send("payment_intent.payment_failed", failed)
    payment.refresh_from_db()
    assert (payment.status, payment.failure) == ("SUCCEEDED", "")


def test_payments_of_others_in_the_same_stripe_account_are_left_alone(stripe, organization):
    foreign = {"id": "pi_9", "status": "succeeded", "amount": 100, "currency": "usd"}
    assert send("payment_intent.succeeded", foreign).startswith("Not about")
    assert send("invoice.paid", {"id": "in_1"}) == "Of no interest."
    assert dollars(organization) == 0


# --- Money on its way back ----------------------------------------------------------------------
def paid(payment):
    send("payment_intent.succeeded", intent_of(payment))
    payment.refresh_from_db()
    return payment


def test_a_refund_at_stripe_and_a_dispute_take_the_credit(payment, organization):
    paid(payment)
    for _ in range(2):
        send("charge.refunded", charge_of())
    assert dollars(organization) == 15
    for _ in range(2):
        send("charge.dispute.created", dispute_of(amount=1500))
    assert dollars(organization) == 0
    send("charge.dispute.closed", dispute_of(status="won"))
    assert dollars(organization) == 15


@pytest.mark.parametrize(
    ("kind", "data", "left"),
    [
        ("charge.refunded", charge_of(), 15),
        ("charge.dispute.created", dispute_of(), 0),
    ],
)
def test_what_comes_before_its_payment_waits_for_it(payment, organization, kind, data, left):
    assert send(kind, data, id="evt_early").startswith("Waits")
    assert payment_events.handle_waiting(timezone.now()) == 0
    paid(payment)
    tasks.reconcile_payments()
    assert dollars(organization) == left
    assert not PaymentEvent.objects.filter(processed_at=None).exists()
    send(kind, data, id="evt_early")
    assert dollars(organization) == left


def test_what_waits_for_nothing_is_closed_after_a_week(stripe):
    send("charge.refunded", charge_of(payment_intent="pi_unknown"))
    payment_events.handle_waiting(timezone.now() + timedelta(days=8))
    assert PaymentEvent.objects.get().outcome == "Its payment never became known."


def test_a_dispute_closed_before_it_was_opened_waits(payment, organization):
    paid(payment)
    assert send("charge.dispute.closed", dispute_of(status="won")).startswith("Waits")
    send("charge.dispute.created", dispute_of())
    payment_events.handle_waiting(timezone.now())
    assert dollars(organization) == 25


def test_a_question_of_the_bank_takes_nothing(payment, organization):
    """Stripe withdraws nothing for an inquiry, and tells when one becomes a dispute."""
    paid(payment)
    send("charge.dispute.created", dispute_of(status="warning_needs_response"))
    send("charge.dispute.closed", dispute_of(status="warning_closed"))
    assert dollars(organization) == 25
    assert not PaymentEvent.objects.filter(processed_at=None).exists()
    payment.refresh_from_db()
    assert payment.disputed_at is None
    assert "nothing was taken" in payment.attention


def test_a_question_of_the_bank_that_becomes_a_dispute_takes_the_credit_once(payment, organization):
    paid(payment)
    send("charge.dispute.created", dispute_of(status="warning_needs_response"))
    for _ in range(2):
        send("charge.dispute.funds_withdrawn", dispute_of(status="needs_response"))
    assert dollars(organization) == 0
    send("charge.dispute.closed", dispute_of(status="won"))
    assert dollars(organization) == 25
    # A message that was late changes nothing any more.
    send("charge.dispute.created", dispute_of(status="needs_response"))
    payment.refresh_from_db()
    assert (dollars(organization), payment.disputed_at) == (25, None)


@pytest.mark.parametrize(("status", "left"), [("failed", 15), ("succeeded", 15)])
def test_a_refund_at_stripe_while_ours_is_unanswered_is_taken_once(
    payment, organization, status, left
):
    """Staff were faster in Stripe's dashboard, or the message told of our own refund."""
    paid(payment)
    refund = refunds.request(payment, 10 * DOLLAR, key="k", reason="", by=None, at=timezone.now())
    assert send("charge.refunded", charge_of(amount_refunded=1000)).startswith("Waits")
    if status == "failed":
        refunds.fail(refund, "Charge ch_1 has already been refunded.", at=timezone.now())
    else:
        refunds.complete(refund, at=timezone.now())
    payment_events.handle_waiting(timezone.now())
    assert not PaymentEvent.objects.filter(processed_at=None).exists()
    assert dollars(organization) == left
    assert ledger.balance(organization).held_nanos == 0
    assert checks.verify().is_clean


@pytest.mark.parametrize("kind", ["refund.updated", "charge.refund.updated"])
@pytest.mark.parametrize(
    ("status", "left", "ends"), [("succeeded", 15, "SUCCEEDED"), ("failed", 25, "FAILED")]
)
def test_the_end_of_our_refund_may_be_told(payment, organization, kind, status, left, ends):
    paid(payment)
    refund = refunds.request(payment, 10 * DOLLAR, key="k", reason="", by=None, at=timezone.now())
    told = {
        "id": "re_1",
        "status": status,
        "amount": 1000,
        "currency": "usd",
        "payment_intent": "pi_1",
        "metadata": {"reference": refund.public_id},
    }
    for _ in range(2):
        send(kind, told)
    send("charge.refunded", charge_of(amount_refunded=1000 if status == "succeeded" else 0))
    refund.refresh_from_db()
    assert (refund.status, dollars(organization)) == (ends, left)
    assert ledger.balance(organization).held_nanos == 0
    assert checks.verify().is_clean


def test_a_refund_made_at_stripe_that_fails_is_for_staff(payment, organization):
    paid(payment)
    send("charge.refunded", charge_of())
    failed = {"id": "re_9", "status": "failed", "amount": 1000, "currency": "usd"}
    send("refund.failed", failed | {"payment_intent": "pi_1"})
    payment.refresh_from_db()
    assert payment.attention == "A refund made at Stripe failed (re_9); correct the credit."
    assert send("refund.failed", failed | {"payment_intent": "pi_foreign"}).startswith("Not about")


def test_other_currencies_on_the_way_back_are_flagged_and_move_nothing(payment, organization):
    paid(payment)
    send("charge.refunded", charge_of(currency="eur"))
    send("charge.dispute.created", dispute_of(currency="eur"))
    payment.refresh_from_db()
    assert "another currency" in payment.attention
    assert dollars(organization) == 25


# --- When something breaks ----------------------------------------------------------------------
def test_a_message_that_breaks_us_is_kept_and_handled_later(payment, organization, monkeypatch):
    body = event("checkout.session.completed", session_of(payment), id="evt_1")

    def broken(*_, **__):
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(payments, "credit", broken)
        with pytest.raises(RuntimeError):
            post(body)
        assert payment_events.handle_waiting(timezone.now()) == 0
    assert dollars(organization) == 0
    assert json.loads(PaymentEvent.objects.get().payload)["id"] == "evt_1"
    assert payment_events.handle_waiting(timezone.now()) == 1
    assert dollars(organization) == 25
    assert Payment.objects.get().status == "SUCCEEDED"
