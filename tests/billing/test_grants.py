"""Promotional credit: spent first, earliest expiry first, and every use is recorded."""

from datetime import UTC, date, datetime, timedelta

import pytest
from django.utils import timezone

from billing import checks, grants, ledger
from billing.models import CreditGrant, GrantUse, LedgerAccount, Transfer

NOW = timezone.now()
pytestmark = pytest.mark.django_db


def give(organization, amount, *, days=None, key=None):
    """A grant that expires in so many days; its lot."""
    transfer = ledger.grant(
        organization,
        amount,
        reason="promo",
        idempotency_key=key or f"give:{amount}:{days}",
        expires_at=None if days is None else NOW + timedelta(days=days),
        at=NOW,
    )
    return transfer.credit_grant


def charge(organization, amount, key="usage"):
    """What one ingested batch does: a transfer from CREDITS, then `consume`."""
    accounts = ledger.open_accounts(organization)
    transfer = Transfer.objects.create(
        organization=organization,
        debit_account=accounts["CREDITS"],
        credit_account=accounts["USAGE_REVENUE"],
        amount_nanos=amount,
        code="USAGE",
        idempotency_key=key,
        fingerprint=key,
        created_at=NOW,
    )
    for kind, counter in (
        ("CREDITS", "debits_posted_nanos"),
        ("USAGE_REVENUE", "credits_posted_nanos"),
    ):
        account = LedgerAccount.objects.get(pk=accounts[kind].pk)
        LedgerAccount.objects.filter(pk=account.pk).update(
            **{counter: getattr(account, counter) + amount}
        )
    return grants.Charge(organization.pk, transfer.pk, amount, NOW)


def spend(organization, amount, key="usage"):
    grants.consume([charge(organization, amount, key)])


def left(*lots):
    return [CreditGrant.objects.get(pk=lot.pk).remaining_nanos for lot in lots]


def test_a_grant_opens_a_lot_and_repeating_it_opens_no_other(organization):
    lot = give(organization, 500, days=3, key="k")
    assert give(organization, 500, days=3, key="k") == lot
    assert (lot.amount_nanos, lot.used_nanos, lot.expired_nanos) == (500, 0, 0)
    assert lot.expires_at == NOW + timedelta(days=3)
    assert CreditGrant.objects.count() == 1


def test_the_same_key_with_another_expiry_is_refused(organization):
    give(organization, 500, days=3, key="k")
    with pytest.raises(ledger.KeyReused):
        give(organization, 500, days=4, key="k")


def test_an_expiry_in_the_past_is_refused(organization):
    with pytest.raises(ValueError, match="still to come"):
        give(organization, 500, days=0)
    assert not Transfer.objects.exists()


def test_a_promotion_lasts_through_its_last_day():
    assert grants.end_of(date(2030, 12, 31)) == datetime(2031, 1, 1, tzinfo=UTC)


def test_usage_takes_the_earliest_expiry_first_and_no_expiry_last(organization):
    never, late, early = (give(organization, 100, days=days) for days in (None, 9, 2))
    spend(organization, 130, "first")
    assert left(early, late, never) == [0, 70, 100]
    spend(organization, 100, "second")
    assert left(early, late, never) == [0, 0, 70]
    assert grants.remaining_nanos(organization.pk) == 70


def test_of_two_lots_with_one_expiry_the_older_is_taken_first(organization):
    first, second = (give(organization, 100, days=2, key=key) for key in "ab")
    spend(organization, 60)
    assert left(first, second) == [40, 100]


def test_purchased_credit_is_spent_when_no_promotion_is_left(organization):
    lot = give(organization, 100)
    ledger.correct(organization, 400, reason="bought", idempotency_key="c", at=NOW)
    spend(organization, 250)
    assert left(lot) == [0]
    assert GrantUse.objects.get().amount_nanos == 100
    assert ledger.balance(organization).available_nanos == 250


def test_each_use_names_the_lot_and_the_transfer_it_paid(organization):
    early, late = give(organization, 100, days=1), give(organization, 100, days=2)
    batch = [charge(organization, 60, "one"), charge(organization, 90, "two")]
    grants.consume(batch)
    one, two = (item.transfer_id for item in batch)
    uses = GrantUse.objects.order_by("pk").values_list("grant_id", "transfer_id", "amount_nanos")
    assert list(uses) == [(early.pk, one, 60), (early.pk, two, 40), (late.pk, two, 50)]


def test_a_batch_of_many_organizations_uses_only_each_ones_lots(organization, other_organization):
    mine, theirs = give(organization, 100), give(other_organization, 100)
    grants.consume([charge(organization, 30), charge(other_organization, 50)])
    assert left(mine, theirs) == [70, 50]


def test_charges_without_lots_cost_one_query(organization, django_assert_num_queries):
    spent = give(organization, 100)
    spend(organization, 100, "all")
    ledger.correct(organization, 400, reason="bought", idempotency_key="c", at=NOW)
    batch = [charge(organization, 1, f"usage {number}") for number in range(5)]
    with django_assert_num_queries(1):
        grants.consume(batch)
    with django_assert_num_queries(0):
        grants.consume([])
    assert left(spent) == [0]


def test_a_batch_with_lots_costs_the_same_however_large(organization, django_assert_num_queries):
    give(organization, 1000)
    batch = [charge(organization, 1, f"usage {number}") for number in range(50)]
    with django_assert_num_queries(3):
        grants.consume(batch)


def test_more_lots_than_one_statement_takes_are_counted_too(organization, monkeypatch):
    monkeypatch.setattr(grants, "LOTS_PER_STATEMENT_MAX", 2)
    lots = [give(organization, 10, days=day) for day in range(1, 6)]
    spend(organization, 45)
    assert left(*lots) == [0, 0, 0, 0, 5]


def test_a_call_settled_by_the_ledger_is_paid_from_lots(organization):
    lot = give(organization, 1000)
    hold_id = ledger.hold(ledger.Hold(organization.pk, 300, "h", NOW, NOW + timedelta(minutes=1)))
    for _ in range(2):  # a repeated settlement takes nothing again
        ledger.settle(ledger.Settlement(organization.pk, hold_id, 300, 120, "s", NOW))
    assert left(lot) == [880]


def test_what_is_owed_is_paid_from_the_promotion_that_arrives(organization):
    ledger.settle(ledger.Settlement(organization.pk, None, 0, 70, "s", NOW))
    lot = give(organization, 100)
    assert left(lot) == [30]
    assert GrantUse.objects.get().transfer.code == "OVERAGE"


def test_a_correction_takes_promotional_credit_last(organization):
    lot = give(organization, 100)
    ledger.correct(organization, 50, reason="x", idempotency_key="more", at=NOW)
    ledger.correct(organization, -50, reason="x", idempotency_key="undo", at=NOW)
    assert left(lot) == [100]
    ledger.correct(organization, -30, reason="x", idempotency_key="less", at=NOW)
    assert left(lot) == [70]
    assert checks.verify(organization).is_clean


def test_verify_ledger_names_a_lot_that_is_not_what_was_taken(organization):
    lot = give(organization, 100)
    CreditGrant.objects.filter(pk=lot.pk).update(used_nanos=10)
    assert any(f"grant {lot.pk} has used 10" in text for text in checks.verify().differences)


def test_verify_ledger_names_promotions_beyond_the_balance(organization):
    give(organization, 100)
    charge(organization, 40)  # and nobody consumed
    assert any("promotions are unspent" in text for text in checks.verify().differences)
