"""The credit page: everybody in the organization sees, owners act, outsiders find nothing."""

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from billing import ledger
from billing.models import AutoTopUp, Payment, PaymentCustomer, Refund
from tests import factories

DOLLAR = 1_000_000_000
pytestmark = pytest.mark.django_db


@pytest.fixture
def url(organization):
    return f"/console/{organization.slug}/credit/"


@pytest.fixture
def payment(buyer):
    return buyer.buy(25)


def text_of(answer):
    return answer.content.decode()


def key_of(client, url, form="top_up_form"):
    return client.get(url).context[form]["key"].value()


def buy(client, url, **data):
    sent = {"key": key_of(client, url), "choice": "25"} | data
    return client.post(f"{url}top-up/", sent)


def refund(client, url, payment, amount="10", key="0" * 32):
    return client.post(
        f"{url}payments/{payment.public_id}/refund/", {"key": key, "amount": amount}, follow=True
    )


# --- Who -----------------------------------------------------------------------------------------
def posts(url, payment):
    return [
        (f"{url}top-up/", {"key": "0" * 32, "choice": "25"}),
        (f"{url}auto-top-up/", {"threshold": "1", "amount": "5", "monthly_cap": "5"}),
        (f"{url}payments/{payment.public_id}/refund/", {"key": "0" * 32, "amount": "1"}),
    ]


def test_outsiders_find_nothing(outsider_client, url, payment):
    assert outsider_client.get(url).status_code == 404
    for address, data in posts(url, payment):
        assert outsider_client.post(address, data).status_code == 404
    assert Payment.objects.count() == 1


def test_strangers_are_sent_to_the_log_in(url, payment):
    for address, data in posts(url, payment):
        assert Client().post(address, data).status_code == 302
    assert (Payment.objects.count(), Refund.objects.count()) == (1, 0)


@pytest.mark.parametrize("role", ["ADMIN", "MEMBER", "BILLING", "VIEWER"])
def test_whoever_is_no_owner_sees_and_cannot_act(organization, url, payment, role):
    client = Client()
    client.force_login(
        factories.make_member(organization=organization, role=role),
        backend="django.contrib.auth.backends.ModelBackend",
    )
    page = text_of(client.get(url))
    assert payment.public_id in page
    assert "Only an owner" in page
    assert "/refund/" not in page
    for address, data in posts(url, payment):
        assert client.post(address, data).status_code == 403
    assert (Payment.objects.count(), Refund.objects.count()) == (1, 0)
    assert not AutoTopUp.objects.exists()


def test_an_owner_cannot_refund_another_ones_payment(
    owner_client, url, stripe, other_organization, payment
):
    theirs = Payment.objects.create(
        organization=other_organization,
        kind="CHECKOUT",
        amount_nanos=25 * DOLLAR,
        idempotency_key="theirs",
        created_at=timezone.now(),
    )
    assert refund(owner_client, url, theirs).status_code == 404
    assert theirs.public_id not in text_of(owner_client.get(url))


# --- What is shown --------------------------------------------------------------------------------
def test_the_balance_is_split_by_kind_and_expiry(owner_client, organization, url, payment):
    now = timezone.now()
    factories.make_credit(organization=organization, nanos=3 * DOLLAR)
    ledger.grant(
        organization,
        7 * DOLLAR,
        reason="Workshop",
        idempotency_key="g",
        expires_at=now + timedelta(days=9),
        at=now,
    )
    ledger.hold(ledger.Hold(organization.pk, 2 * DOLLAR, "h", now, now + timedelta(hours=1)))
    answer = owner_client.get(url)
    page = " ".join(text_of(answer).split())
    assert "<dt>Available credit</dt><dd>$33.00" in page
    assert "<dt>Held</dt><dd>$2.00" in page
    assert "<dt>Promotional</dt><dd>$10.00" in page
    assert "<dt>Bought</dt><dd>$25.00" in page
    assert f"$7.00 expires {now + timedelta(days=9):%-d %b %Y}" in page
    assert [lot.amount_nanos for lot in answer.context["lots"]] == [7 * DOLLAR, 3 * DOLLAR]


def test_an_organization_that_never_had_credit_has_a_page(owner_client, url, stripe):
    page = text_of(owner_client.get(url))
    assert "No payments yet" in page
    assert "Top up" in page


def test_what_is_owed_is_said(owner_client, organization, url, stripe):
    ledger.settle(ledger.Settlement(organization.pk, None, 0, 2 * DOLLAR, "call", timezone.now()))
    assert "$2.00 is owed." in text_of(owner_client.get(url))


def test_without_a_key_the_page_says_how_to_set_payments_up(owner_client, url, settings):
    settings.STRIPE_API_KEY = settings.STRIPE_WEBHOOK_SECRET = ""
    page = text_of(owner_client.get(url))
    assert "STRIPE_API_KEY" in page
    assert "grant_credit" in page
    assert "top-up/" not in page
    answer = owner_client.post(f"{url}top-up/", {"key": "0" * 32, "choice": "25"})
    assert answer.status_code == 503


def test_no_page_shows_a_secret(owner_client, url, payment, settings):
    page = text_of(owner_client.get(url))
    assert settings.STRIPE_API_KEY not in page
    assert settings.STRIPE_WEBHOOK_SECRET not in page


# --- Buying ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "cents"),
    [
        ({"choice": "25"}, 2500),
        ({"choice": "100", "amount": "7"}, 10_000),
        ({"choice": "other", "amount": "12.34"}, 1234),
        ({"choice": "other", "amount": "$1,000"}, 100_000),
    ],
)
def test_an_owner_is_sent_to_stripe_to_pay(owner_client, url, owner, stripe, data, cents):
    answer = buy(owner_client, url, **data)
    [session] = stripe.sessions.values()
    assert (answer.status_code, answer.headers["Location"]) == (302, session["url"])
    assert session["amount_total"] == cents
    assert session["success_url"].endswith(f"{url}?back=1")
    assert session["setup_future_usage"] is None
    assert Payment.objects.get().created_by == owner
    assert "Continue" in text_of(owner_client.get(url))


def test_a_double_click_opens_one_checkout(owner_client, url, stripe):
    key = key_of(owner_client, url)
    first, second = (buy(owner_client, url, key=key) for _ in range(2))
    assert first.headers["Location"] == second.headers["Location"]
    assert (len(stripe.sessions), Payment.objects.count()) == (1, 1)


def test_enter_in_the_field_buys_what_was_typed(owner_client, url, stripe):
    """A browser then presses the form's first button."""
    form = text_of(owner_client.get(url)).partition(f'action="{url}top-up/"')[2]
    first_button = re.search(r'<button[^>]*type="submit"[^>]*>', form)
    assert first_button is not None
    assert 'name="choice" value="other"' in first_button.group()


def test_another_amount_from_the_same_page_is_another_checkout(owner_client, url, stripe):
    key = key_of(owner_client, url)
    buy(owner_client, url, key=key, choice="25")
    buy(owner_client, url, key=key, choice="50")
    assert sorted(one["amount_total"] for one in stripe.sessions.values()) == [2500, 5000]


def test_the_payment_method_is_saved_when_asked_for(owner_client, url, stripe):
    buy(owner_client, url, saves_payment_method="on")
    [session] = stripe.sessions.values()
    assert session["setup_future_usage"] == "off_session"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"choice": "other"}, "Give an amount."),
        ({"choice": "other", "amount": "ten"}, "is not an amount"),
        ({"choice": "other", "amount": "-5"}, "above zero"),
        ({"choice": "other", "amount": "4.99"}, "Choose an amount from $5.00 to $10,000.00."),
        ({"choice": "other", "amount": "10000.01"}, "Choose an amount from"),
        ({"choice": "other", "amount": "10.001"}, "whole cents"),
    ],
)
def test_a_wrong_amount_is_told(owner_client, url, stripe, data, says):
    answer = buy(owner_client, url, **data)
    assert answer.status_code == 400
    assert says in text_of(answer).replace("&#x27;", "'")
    assert stripe.sessions == {}


@pytest.mark.parametrize("data", [{"choice": "26"}, {"choice": ""}, {"key": "x"}])
def test_a_form_that_was_tampered_with_buys_nothing(owner_client, url, stripe, data):
    assert buy(owner_client, url, **data).status_code == 400
    assert stripe.sessions == {}


def test_when_stripe_is_away_the_form_comes_back_with_its_key(owner_client, url, stripe):
    stripe.is_down = True
    answer = buy(owner_client, url)
    assert answer.status_code == 503
    assert "does not answer just now" in text_of(answer)
    key = answer.context["top_up_form"]["key"].value()
    stripe.is_down = False
    assert buy(owner_client, url, key=key).status_code == 302
    assert Payment.objects.count() == 1


# --- Refunds --------------------------------------------------------------------------------------
def test_an_owner_gets_unspent_money_back(owner_client, url, payment, organization, stripe):
    offered = owner_client.get(url).context["rows"][0]
    assert offered["refundable_nanos"] == 25 * DOLLAR
    page = text_of(refund(owner_client, url, payment))
    assert "Refunded $10.00." in page
    assert "Refund of $10.00" in page
    assert ledger.balance(organization).available_nanos == 15 * DOLLAR
    assert len(stripe.refunds()) == 1


def test_a_double_click_refunds_once(owner_client, url, payment, organization, stripe):
    for _ in range(2):
        refund(owner_client, url, payment)
    assert len(stripe.refunds()) == 1
    assert ledger.balance(organization).available_nanos == 15 * DOLLAR


@pytest.mark.parametrize(
    ("amount", "says"),
    [("25.01", "$25.00 of this payment"), ("0", "give an amount"), ("all", "give an amount")],
)
def test_a_refund_that_cannot_be_is_told(owner_client, url, payment, stripe, amount, says):
    assert says in text_of(refund(owner_client, url, payment, amount))
    assert not Refund.objects.exists()


def test_when_stripe_is_away_a_refund_is_under_way(
    owner_client, url, payment, organization, stripe
):
    stripe.is_down = True
    assert "is under way" in text_of(refund(owner_client, url, payment))
    assert ledger.balance(organization).held_nanos == 10 * DOLLAR


def test_a_refund_that_stripe_refuses_gives_the_credit_back(
    owner_client, url, payment, organization
):
    Payment.objects.update(provider_payment_id="pi_unknown")
    assert "The refund of $10.00 failed" in text_of(refund(owner_client, url, payment))
    assert ledger.balance(organization).available_nanos == 25 * DOLLAR


# --- Automatic top-up -----------------------------------------------------------------------------
def configure(client, url, **data):
    wanted = {"threshold": "10", "amount": "25", "monthly_cap": "100", "is_enabled": "on"} | data
    return client.post(f"{url}auto-top-up/", wanted, follow=True)


def test_an_owner_sets_automatic_top_ups(owner_client, owner, url, buyer):
    buyer.buy(25, saves=True)
    PaymentCustomer.objects.update(payment_method_label="visa ending in 4242")
    assert "Automatic top-ups are on." in text_of(configure(owner_client, url))
    setting = AutoTopUp.objects.get()
    assert (setting.threshold_nanos, setting.changed_by) == (10 * DOLLAR, owner)
    assert "visa ending in 4242" in text_of(owner_client.get(url))
    assert "Automatic top-ups are off." in text_of(configure(owner_client, url, is_enabled=""))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "save your payment method first"),
        ({"monthly_cap": "24"}, "at least one purchase"),
        ({"amount": "1"}, "Choose an amount from"),
        ({"threshold": "low"}, "is not an amount"),
        ({"threshold": ""}, "This field is required"),
    ],
)
def test_settings_that_make_no_sense_are_told(owner_client, url, payment, data, says):
    answer = configure(owner_client, url, **data)
    assert answer.status_code == 400
    assert says in text_of(answer)
    assert not AutoTopUp.objects.exists()


def test_declines_are_shown(owner_client, owner, organization, url, buyer):
    buyer.buy(25, saves=True)
    configure(owner_client, url)
    AutoTopUp.objects.update(declines=2, next_try_at=timezone.now())
    assert "The last payment was declined." in text_of(owner_client.get(url))
    AutoTopUp.objects.update(declines=4, is_enabled=False)
    assert "declined 4 times in a row" in text_of(owner_client.get(url))


def test_older_payments_are_on_further_pages_and_can_be_refunded_there(
    owner_client, url, payment, buyer, monkeypatch
):
    monkeypatch.setattr("orgs.listing.ROWS_PER_PAGE", 1)
    latest = buyer.buy(10)
    first = text_of(owner_client.get(url))
    assert latest.public_id in first
    assert payment.public_id not in first
    second = text_of(owner_client.get(f"{url}?page=2"))
    assert f"{url}payments/{payment.public_id}/refund/" in second
