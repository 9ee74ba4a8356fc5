"""The ledger: balances, idempotency, holds and settlements, races, and its invariants always."""

import threading
from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import charges, checks, expiry, grants, ledger
from billing.models import LedgerAccount, Transfer
from tests import factories
from tests.billing.bookkeeping import differences_besides_calls

NOW = timezone.now()


def hold(organization, amount, key="hold:1"):
    return ledger.hold(ledger.Hold(organization.pk, amount, key, NOW, NOW + timedelta(minutes=20)))


def settle(organization, hold_id, held, cost, key="settle:1"):
    return ledger.settle(ledger.Settlement(organization.pk, hold_id, held, cost, key, NOW))


def figures(organization):
    balance = ledger.balance(organization)
    return balance.posted_nanos, balance.held_nanos, balance.available_nanos


# --- Granting and correcting -------------------------------------------------------------------
def test_an_organization_without_accounts_has_nothing(organization):
    assert figures(organization) == (0, 0, 0)


def test_opening_accounts_twice_opens_each_once(organization):
    first = ledger.open_accounts(organization)
    assert ledger.open_accounts(organization) == first
    assert set(first) == set(LedgerAccount.Kind)
    assert [kind for kind, a in first.items() if not a.allows_overdraft] == ["CREDITS"]


def test_a_grant_is_promotional_credit_with_its_reason(organization, owner):
    transfer = ledger.grant(
        organization, 500, reason="welcome", idempotency_key="g1", created_by=owner, at=NOW
    )
    assert (transfer.code, transfer.reason, transfer.created_by) == ("PROMO", "welcome", owner)
    assert transfer.debit_account.kind == "PROMOTIONS"
    assert transfer.credit_account.kind == "CREDITS"
    assert figures(organization) == (500, 0, 500)


def test_the_same_key_and_arguments_return_the_first_grant(organization):
    first = ledger.grant(organization, 500, reason="a", idempotency_key="g1", at=NOW)
    again = ledger.grant(organization, 500, reason="a", idempotency_key="g1", at=NOW)
    assert again == first
    assert figures(organization) == (500, 0, 500)


def test_the_same_key_for_another_amount_is_refused(organization):
    ledger.grant(organization, 500, reason="a", idempotency_key="g1", at=NOW)
    with pytest.raises(ledger.KeyReused):
        ledger.grant(organization, 501, reason="a", idempotency_key="g1", at=NOW)


def test_a_key_belongs_to_its_organization(organization, other_organization):
    ledger.grant(organization, 500, reason="a", idempotency_key="g1", at=NOW)
    ledger.grant(other_organization, 7, reason="b", idempotency_key="g1", at=NOW)
    assert figures(other_organization) == (7, 0, 7)


@pytest.mark.parametrize("amount", [0, -5])
def test_a_grant_is_above_zero(organization, amount):
    with pytest.raises(ValueError, match="above zero"):
        ledger.grant(organization, amount, reason="a", idempotency_key="g1", at=NOW)


def test_corrections_go_both_ways(organization):
    factories.make_credit(organization=organization, nanos=1000)
    ledger.correct(organization, 50, reason="missed", idempotency_key="c1", at=NOW)
    ledger.correct(organization, -200, reason="too much", idempotency_key="c2", at=NOW)
    assert figures(organization) == (850, 0, 850)


def test_a_correction_cannot_take_what_is_held_or_not_there(organization):
    factories.make_credit(organization=organization, nanos=1000)
    hold(organization, 900)
    with pytest.raises(ledger.UnableToDebit) as refusal:
        ledger.correct(organization, -101, reason="x", idempotency_key="c1", at=NOW)
    assert refusal.value.available_nanos == 100
    assert figures(organization) == (1000, 900, 100)


# --- Collecting what is owed --------------------------------------------------------------------
def owe(organization, amount):
    """A call that was not held for has cost this."""
    settle(organization, None, 0, amount, key=f"settle:{amount}")


@pytest.mark.parametrize(
    "receive",
    [
        lambda organization: ledger.grant(
            organization, 500, reason="a", idempotency_key="k", at=NOW
        ),
        lambda organization: ledger.correct(
            organization, 500, reason="a", idempotency_key="k", at=NOW
        ),
    ],
    ids=["grant", "correction"],
)
def test_credit_that_arrives_pays_what_is_owed_first(organization, receive):
    owe(organization, 120)
    for _ in range(2):
        receive(organization)
    assert figures(organization) == (380, 0, 380)
    assert ledger.owed_nanos(organization.pk) == 0
    collected = Transfer.objects.get(code="OVERAGE")
    assert (collected.debit_account.kind, collected.credit_account.kind) == (
        "CREDITS",
        "OVERAGE_RECEIVABLE",
    )


def test_what_is_owed_is_paid_as_far_as_the_credit_goes(organization):
    owe(organization, 120)
    factories.make_credit(organization=organization, nanos=50)
    assert figures(organization) == (0, 0, 0)
    assert ledger.owed_nanos(organization.pk) == 70
    factories.make_credit(organization=organization, nanos=100)
    assert figures(organization) == (30, 0, 30)
    assert ledger.owed_nanos(organization.pk) == 0


def test_credit_that_calls_hold_pays_no_debt_until_it_is_free(organization):
    factories.make_credit(organization=organization, nanos=100)
    held = hold(organization, 100)
    owe(organization, 40)
    assert ledger.collect_overage_of_all(at=NOW) == 0
    settle(organization, held, 100, 0, key="settle:free")
    assert ledger.collect_overage_of_all(at=NOW) == 40
    assert ledger.collect_overage_of_all(at=NOW) == 0
    assert figures(organization) == (60, 0, 60)


def test_nobody_pays_what_another_owes(organization, other_organization):
    owe(other_organization, 40)
    factories.make_credit(organization=organization, nanos=100)
    assert figures(organization) == (100, 0, 100)
    assert ledger.owed_nanos(other_organization.pk) == 40


# --- Holding and settling ----------------------------------------------------------------------
def test_a_hold_reserves_and_a_settlement_posts_and_returns_the_rest(organization):
    factories.make_credit(organization=organization, nanos=1000)
    hold_id = hold(organization, 300)
    assert figures(organization) == (1000, 300, 700)
    charged = Transfer.objects.get(pk=settle(organization, hold_id, 300, 120))
    assert figures(organization) == (880, 0, 880)
    assert (charged.phase, charged.amount_nanos) == ("POST_PENDING", 120)
    assert charged.pending_transfer_id == hold_id
    assert charged.credit_account.kind == "USAGE_REVENUE"


def test_a_call_that_cost_nothing_releases_its_hold(organization):
    factories.make_credit(organization=organization, nanos=1000)
    assert settle(organization, hold(organization, 300), 300, 0) is None
    assert figures(organization) == (1000, 0, 1000)
    assert Transfer.objects.filter(phase="VOID_PENDING", amount_nanos=300).count() == 1


def test_a_cost_above_the_hold_is_owed_and_never_lost_nor_overdrawn(organization):
    factories.make_credit(organization=organization, nanos=1000)
    settle(organization, hold(organization, 300), 300, 450)
    accounts = ledger.open_accounts(organization)
    assert figures(organization) == (700, 0, 700)
    assert accounts["OVERAGE_RECEIVABLE"].debits_posted_nanos == 150
    assert accounts["USAGE_REVENUE"].credits_posted_nanos == 450


def test_a_cost_without_a_hold_is_owed_whole(organization):
    charged = Transfer.objects.get(pk=settle(organization, None, 0, 40))
    assert (charged.phase, charged.debit_account.kind) == ("POSTED", "OVERAGE_RECEIVABLE")


def test_too_little_credit_refuses_the_hold_with_the_figures(organization):
    factories.make_credit(organization=organization, nanos=100)
    with pytest.raises(ledger.UnableToHold) as refusal:
        hold(organization, 101)
    error = refusal.value
    assert (error.available_nanos, error.held_nanos, error.needed_nanos) == (100, 0, 101)
    assert not error.is_reserved


def test_credit_that_other_calls_hold_is_told_from_no_credit(organization):
    factories.make_credit(organization=organization, nanos=100)
    hold(organization, 60)
    with pytest.raises(ledger.UnableToHold) as refusal:
        hold(organization, 50, key="hold:2")
    assert refusal.value.is_reserved


def test_an_organization_without_credit_is_refused(organization):
    with pytest.raises(ledger.UnableToHold):
        hold(organization, 1)


def test_repeating_a_hold_returns_it_even_when_nothing_is_left(organization):
    factories.make_credit(organization=organization, nanos=100)
    assert hold(organization, 100) == hold(organization, 100)
    assert figures(organization) == (100, 100, 0)


def test_a_hold_is_settled_once(organization):
    factories.make_credit(organization=organization, nanos=1000)
    hold_id = hold(organization, 300)
    first = settle(organization, hold_id, 300, 120)
    assert settle(organization, hold_id, 300, 120) == first
    with pytest.raises(ledger.AlreadySettled):
        settle(organization, hold_id, 300, 120, key="settle:2")
    with pytest.raises(ledger.KeyReused):
        settle(organization, hold_id, 300, 121)
    assert figures(organization) == (880, 0, 880)


def test_releasing_gives_back_once(organization):
    factories.make_credit(organization=organization, nanos=1000)
    held = Transfer.objects.get(pk=hold(organization, 300))
    ledger.release(held, reason="expired hold", at=NOW)
    assert figures(organization) == (1000, 0, 1000)
    with pytest.raises(ledger.AlreadySettled):
        settle(organization, held.pk, 300, 10)
    assert Transfer.objects.get(phase="VOID_PENDING").reason == "expired hold"


# --- Races ---------------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_twelve_threads_racing_for_credit_get_exactly_what_there_is():
    organization = factories.make_organization()
    factories.make_credit(organization=organization, nanos=750)
    barrier = threading.Barrier(12)
    granted: list[int] = []
    refused: list[ledger.UnableToHold] = []

    def race(number: int) -> None:
        try:
            connection.ensure_connection()
            barrier.wait()
            granted.append(hold(organization, 100, key=f"hold:{number}"))
        except ledger.UnableToHold as refusal:
            refused.append(refusal)
        finally:
            connection.close()

    threads = [threading.Thread(target=race, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(granted), len(refused)) == (7, 5)
    assert figures(organization) == (750, 700, 50)
    assert all(refusal.is_reserved for refusal in refused)
    assert checks.verify().differences == []


@pytest.mark.django_db(transaction=True)
def test_one_intention_sent_by_many_threads_is_one_grant():
    organization = factories.make_organization()
    ledger.open_accounts(organization)
    barrier = threading.Barrier(6)
    made: set[int] = set()

    def race() -> None:
        try:
            connection.ensure_connection()
            barrier.wait()
            made.add(ledger.grant(organization, 50, reason="a", idempotency_key="g", at=NOW).pk)
        finally:
            connection.close()

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert figures(organization) == (50, 0, 50)


# --- Always ------------------------------------------------------------------------------------
amounts = st.integers(min_value=1, max_value=400)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), amounts),
        st.tuples(st.just("correct"), st.integers(min_value=-400, max_value=400).filter(bool)),
        st.tuples(st.just("hold"), amounts),
        st.tuples(st.just("settle"), st.integers(min_value=0, max_value=600)),
        st.tuples(st.just("release"), amounts),
        st.tuples(st.just("charge"), amounts),
        st.tuples(st.just("collect"), amounts),
        st.tuples(st.just("expire"), amounts),
    ),
    max_size=15,
)


class Model:
    """What the ledger must agree with, kept with plain numbers."""

    def __init__(self, organization):
        self.organization = organization
        self.credit = 0
        self.owed = 0
        self.holds: dict[int, int] = {}
        self.number = 0

    def key(self):
        self.number += 1
        return f"step:{self.number}"

    @property
    def available(self):
        return self.credit - sum(self.holds.values())

    def grant(self, amount):
        ledger.grant(self.organization, amount, reason="", idempotency_key=self.key(), at=NOW)
        self.receive(amount)

    def receive(self, amount):
        """Credit pays what is owed first."""
        self.credit += amount
        collected = min(self.owed, self.available)
        self.owed -= collected
        self.credit -= collected

    def pay(self, cost, held):
        self.credit -= min(cost, held)
        self.owed += max(0, cost - held)

    def correct(self, amount):
        try:
            ledger.correct(self.organization, amount, reason="", idempotency_key=self.key(), at=NOW)
        except ledger.UnableToDebit:
            assert self.available + amount < 0
        else:
            if amount > 0:
                self.receive(amount)
            else:
                self.credit += amount

    def hold(self, amount):
        if amount <= self.available:
            self.holds[hold(self.organization, amount, self.key())] = amount
            return
        with pytest.raises(ledger.UnableToHold) as refusal:
            hold(self.organization, amount, self.key())
        assert refusal.value.available_nanos == self.available

    def settle(self, cost):
        if self.holds:
            hold_id, held = self.holds.popitem()
            settle(self.organization, hold_id, held, cost, self.key())
            self.pay(cost, held)

    def collect(self, _):
        ledger.collect_overage_of_all(at=NOW)
        self.receive(0)

    def expire(self, _):
        lot = grants.open_lots().filter(organization_id=self.organization.pk).first()
        transfer = lot and expiry.expire_lot(lot.pk, reason="", at=NOW)
        if transfer:
            self.credit -= transfer.amount_nanos

    def release(self, _):
        if self.holds:
            hold_id, _ = self.holds.popitem()
            ledger.release(Transfer.objects.get(pk=hold_id), reason="", at=NOW)

    def charge(self, amount):
        """Usage without a lease: from what is available, and the rest is owed."""
        with transaction.atomic():
            costs = {self.organization.pk: amount}
            charges.post(costs, journal="none", key=self.key(), at=NOW)
        paid = min(amount, self.available)
        self.credit -= paid
        self.owed += amount - paid


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=steps)
def test_whatever_happens_the_books_are_right(db, steps):
    model = Model(factories.make_organization())
    for name, amount in steps:
        getattr(model, name)(amount)
        assert figures(model.organization) == (
            model.credit,
            sum(model.holds.values()),
            model.available,
        )
        assert ledger.owed_nanos(model.organization.pk) == model.owed
    assert differences_besides_calls(model.organization) == []
