"""manage.py grant_credit: what an operator types, and what they are told."""

from datetime import UTC, datetime

import pytest
from django.core.management import CommandError, call_command

from billing import ledger
from billing.models import CreditGrant, Transfer

pytestmark = pytest.mark.django_db


def test_credit_is_granted_by_slug_and_the_balance_shown(organization, capsys):
    call_command("grant_credit", organization.slug, "25", "--reason", "welcome")
    assert "Available now: $25.00." in capsys.readouterr().out
    assert Transfer.objects.get().reason == "welcome"


def test_credit_is_granted_by_public_id(organization):
    call_command("grant_credit", organization.public_id, "0.50", "--reason", "welcome")
    assert ledger.balance(organization).available_nanos == 500_000_000


def test_the_same_key_grants_once(organization):
    for _ in range(2):
        call_command("grant_credit", organization.slug, "5", "--reason", "a", "--key", "k")
    assert ledger.balance(organization).available_nanos == 5_000_000_000


def test_the_same_key_for_another_amount_is_refused(organization):
    call_command("grant_credit", organization.slug, "5", "--reason", "a", "--key", "k")
    with pytest.raises(CommandError, match="used for another transfer"):
        call_command("grant_credit", organization.slug, "6", "--reason", "a", "--key", "k")


@pytest.mark.parametrize("amount", ["ten", "0", "0.0000000001", "1e400", "nan"])
def test_a_bad_amount_is_refused_and_nothing_granted(organization, amount):
    with pytest.raises(CommandError, match="Nothing granted"):
        call_command("grant_credit", organization.slug, amount, "--reason", "a")
    assert not Transfer.objects.exists()


def test_a_negative_amount_is_refused(organization):
    with pytest.raises(CommandError):
        call_command("grant_credit", organization.slug, "-5", "--reason", "a")


def test_an_unknown_organization_is_refused(db):
    with pytest.raises(CommandError, match="No organization"):
        call_command("grant_credit", "nobody", "5", "--reason", "a")


def test_a_reason_is_required(organization):
    with pytest.raises(CommandError, match="--reason"):
        call_command("grant_credit", organization.slug, "5")


def test_credit_may_be_given_until_the_end_of_a_day(organization):
    call_command("grant_credit", organization.slug, "5", "--reason", "a", "--expires", "2999-12-31")
    assert CreditGrant.objects.get().expires_at == datetime(3000, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("day", ["2001-01-01", "tomorrow"])
def test_a_day_that_is_over_or_none_is_refused(organization, day):
    with pytest.raises(CommandError, match=r"still to come|invalid"):
        call_command("grant_credit", organization.slug, "5", "--reason", "a", "--expires", day)
    assert not Transfer.objects.exists()
