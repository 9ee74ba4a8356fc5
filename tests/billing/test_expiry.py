"""Expiry: unspent promotional credit is taken back, never what is reserved or was paid for."""

from datetime import timedelta

import pytest
from django.utils import timezone

from billing import checks, expiry, ledger, tasks
from billing.models import CreditGrant, Transfer
from tests import factories

NOW = timezone.now()
LATER = NOW + timedelta(days=2)
pytestmark = pytest.mark.django_db


@pytest.fixture
def lot(organization):
    transfer = ledger.grant(
        organization,
        100,
        reason="promo",
        idempotency_key="g",
        expires_at=NOW + timedelta(days=1),
        at=NOW,
    )
    return transfer.credit_grant


def hold(organization, amount, key="h"):
    return ledger.hold(ledger.Hold(organization.pk, amount, key, NOW, NOW + timedelta(days=9)))


def settle(organization, hold_id, held, cost):
    ledger.settle(ledger.Settlement(organization.pk, hold_id, held, cost, f"s{hold_id}", LATER))


def test_what_is_unspent_goes_to_breakage_once(organization, lot):
    assert expiry.expire_lots(LATER) == 100
    assert expiry.expire_lots(LATER) == 0
    transfer = Transfer.objects.get(code="EXPIRY")
    assert (transfer.debit_account.kind, transfer.credit_account.kind) == ("CREDITS", "BREAKAGE")
    assert ledger.balance(organization).available_nanos == 0
    assert CreditGrant.objects.get().expired_nanos == 100
    assert checks.verify().is_clean


def test_nothing_expires_before_its_time(lot):
    assert expiry.expire_lots(NOW) == 0


def test_credit_without_expiry_stays(organization):
    factories.make_credit(organization=organization, nanos=50)
    assert expiry.expire_lots(NOW + timedelta(days=9999)) == 0


def test_purchased_credit_stays(organization, lot):
    ledger.correct(organization, 40, reason="bought", idempotency_key="c", at=NOW)
    expiry.expire_lots(LATER)
    assert ledger.balance(organization).available_nanos == 40


def test_reserved_credit_is_taken_when_it_is_free_again(organization, lot):
    hold_id = hold(organization, 70)
    assert expiry.expire_lots(LATER) == 30
    assert expiry.expire_lots(LATER) == 0
    settle(organization, hold_id, 70, 0)
    assert expiry.expire_lots(LATER) == 70
    assert CreditGrant.objects.get().remaining_nanos == 0
    assert checks.verify().is_clean


def test_a_call_reserved_before_may_be_paid_from_the_lot_after(organization, lot):
    hold_id = hold(organization, 70)
    expiry.expire_lots(LATER)
    settle(organization, hold_id, 70, 60)
    assert expiry.expire_lots(LATER) == 10
    lot.refresh_from_db()
    assert (lot.used_nanos, lot.expired_nanos) == (60, 40)
    assert ledger.balance(organization).available_nanos == 0


def test_what_was_bought_later_never_pays_for_an_expiry(organization, lot):
    settle(organization, hold(organization, 100), 100, 100)
    ledger.correct(organization, 500, reason="bought", idempotency_key="c", at=LATER)
    assert expiry.expire_lots(LATER) == 0
    assert ledger.balance(organization).available_nanos == 500


def test_the_tasks_look_at_the_clock(organization):
    long_ago = NOW - timedelta(days=9)
    ledger.grant(
        organization,
        100,
        reason="promo",
        idempotency_key="g",
        expires_at=NOW - timedelta(days=1),
        at=long_ago,
    )
    assert tasks.expire_grants() == 100
    assert tasks.collect_overage() == 0
