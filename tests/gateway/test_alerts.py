"""Alerts: noticed once per scope, period and threshold, e-mailed to owners, posted to webhooks."""

import json
from datetime import UTC, datetime, timedelta
from smtplib import SMTPRecipientsRefused
from typing import Any

import pytest
from django.core import mail
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse

from billing.models import PriceVersion
from billing.pricing import Usage
from deployments.models import Deployment
from gateway import alerts, tasks
from gateway.models import Alert, Limit
from orgs import deliveries
from orgs.models import Membership, Organization, User, WebhookDelivery, Workspace
from tests import factories
from tests.orgs.receiver import receiving

NOW = datetime.now(UTC).replace(minute=30, second=0, microsecond=0)
DOLLAR = 1_000_000_000
Scope = Limit.Scope


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace)


@pytest.fixture
def price(organization: Organization) -> PriceVersion:
    """A nano-dollar a token; and credit that no test uses up by accident."""
    factories.make_credit(organization=organization, nanos=1_000 * DOLLAR)
    return factories.make_price(input_nanos=1_000_000)


def spend(deployment: Deployment, price: PriceVersion, nanos: int, at: datetime = NOW) -> None:
    factories.make_call(
        organization=deployment.workspace.organization,
        price=price,
        usage=Usage(input=nanos),
        started_at=at,
        deployment_id=deployment.pk,
        deploy_id=deployment.deploy_id,
    )


def budget(deployment: Deployment, **values: int) -> None:
    Limit.objects.update_or_create(
        scope=Scope.DEPLOYMENT,
        scope_id=deployment.pk,
        defaults={"organization": deployment.workspace.organization, **values},
    )


def noticed() -> list[tuple[str, str, int, bool]]:
    return [
        (row.scope, row.period, row.threshold_percent, row.is_told)
        for row in Alert.objects.order_by("pk")
    ]


def test_each_threshold_is_noticed_once(deployment: Deployment, price: PriceVersion) -> None:
    budget(deployment, daily_budget_nanos=1000)
    spend(deployment, price, 499)
    assert alerts.notice(at=NOW) == 0
    for nanos, threshold in ((1, 50), (300, 80), (200, 100)):
        spend(deployment, price, nanos)
        assert alerts.notice(at=NOW) == 1
        assert alerts.notice(at=NOW) == 0
        assert noticed()[-1] == ("DEPLOYMENT", "DAY", threshold, True)
    spend(deployment, price, 5000)
    assert alerts.notice(at=NOW) == 0


def test_who_passes_several_thresholds_at_once_hears_of_the_highest(
    deployment: Deployment, price: PriceVersion
) -> None:
    budget(deployment, monthly_budget_nanos=1000)
    spend(deployment, price, 900)
    assert alerts.notice(at=NOW) == 2
    assert noticed() == [("DEPLOYMENT", "MONTH", 50, False), ("DEPLOYMENT", "MONTH", 80, True)]


def test_a_budget_that_was_raised_or_lowered_is_noticed_anew(
    deployment: Deployment, price: PriceVersion
) -> None:
    budget(deployment, monthly_budget_nanos=1000)
    spend(deployment, price, 1000)
    assert alerts.notice(at=NOW) == 3
    budget(deployment, monthly_budget_nanos=10_000)
    assert alerts.notice(at=NOW) == 0
    spend(deployment, price, 7000)
    assert alerts.notice(at=NOW) == 2
    assert noticed()[-2:] == [("DEPLOYMENT", "MONTH", 50, False), ("DEPLOYMENT", "MONTH", 80, True)]
    budget(deployment, monthly_budget_nanos=8000)
    alerts.notice(at=NOW)
    assert noticed()[-1] == ("DEPLOYMENT", "MONTH", 100, True)
    assert alerts.notice(at=NOW) == 0


def test_a_new_day_is_noticed_anew(deployment: Deployment, price: PriceVersion) -> None:
    budget(deployment, daily_budget_nanos=1000)
    spend(deployment, price, 500)
    alerts.notice(at=NOW)
    tomorrow = NOW + timedelta(days=1)
    spend(deployment, price, 500, tomorrow)
    assert alerts.notice(at=tomorrow) == 1
    assert {row.starts_at.date() for row in Alert.objects.all()} == {NOW.date(), tomorrow.date()}


def test_staffs_budget_of_the_organization_is_noticed_too(
    deployment: Deployment, price: PriceVersion, organization: Organization
) -> None:
    Limit.objects.create(
        organization=organization,
        scope=Scope.STAFF,
        scope_id=organization.pk,
        monthly_budget_nanos=100,
    )
    spend(deployment, price, 100)
    alerts.notice(at=NOW)
    assert noticed()[-1] == ("ORGANIZATION", "MONTH", 100, True)


def test_credit_is_compared_with_what_there_was_after_the_last_top_up(
    organization: Organization, deployment: Deployment
) -> None:
    factories.make_credit(organization=organization, nanos=1000)
    price = factories.make_price(input_nanos=1_000_000)
    later = datetime.now(UTC) + timedelta(seconds=1)
    factories.make_call(
        organization=organization,
        price=price,
        usage=Usage(input=500),
        started_at=later,
        hold_nanos=600,
    )
    alerts.notice(at=later)
    assert noticed() == [("ORGANIZATION", "CREDIT", 50, True)]
    factories.make_credit(organization=organization, nanos=1000)
    alerts.notice(at=later)
    assert len(noticed()) == 1


def test_suspended_and_idle_organizations_are_not_looked_at(
    deployment: Deployment, price: PriceVersion, organization: Organization
) -> None:
    budget(deployment, monthly_budget_nanos=1)
    spend(deployment, price, 10)
    assert alerts.notice(at=NOW + alerts.ACTIVE_FOR + timedelta(hours=1)) == 0
    factories.suspend(organization, at=NOW)
    assert alerts.notice(at=NOW) == 0


def test_the_database_refuses_the_same_alert_twice(
    deployment: Deployment, price: PriceVersion
) -> None:
    budget(deployment, daily_budget_nanos=1000)
    spend(deployment, price, 500)
    alerts.notice(at=NOW)
    again = Alert.objects.get()
    again.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        again.save(force_insert=True)


# --- telling ----------------------------------------------------------------------------------


def test_owners_get_one_letter_each_and_nobody_else_does(
    deployment: Deployment, price: PriceVersion, owner: User, member: User, outsider: User
) -> None:
    second = factories.make_member(
        organization=deployment.workspace.organization, role=Membership.Role.OWNER
    )
    budget(deployment, daily_budget_nanos=1000)
    spend(deployment, price, 800)
    alerts.notice(at=NOW)
    for _ in range(3):
        alerts.tell(at=NOW)
    assert sorted(letter.to[0] for letter in mail.outbox) == sorted([owner.email, second.email])
    letter = mail.outbox[0]
    name = deployment.deploy_id
    assert letter.subject == f"80 % of the daily budget of deployment {name} is used"
    assert "$0.0000008 of the daily budget of $0.000001 is used." in letter.body
    assert f"/console/{deployment.workspace.organization.slug}/limits/" in letter.body


def test_a_letter_that_cannot_be_sent_is_tried_again(
    deployment: Deployment, price: PriceVersion, owner: User, settings: Any
) -> None:
    budget(deployment, daily_budget_nanos=1000)
    spend(deployment, price, 500)
    alerts.notice(at=NOW)
    backend = settings.EMAIL_BACKEND
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9  # nobody listens there
    alerts.tell(at=NOW)
    assert Alert.objects.get().emailed_at is None
    settings.EMAIL_BACKEND = backend
    alerts.tell(at=NOW)
    assert [letter.to for letter in mail.outbox] == [[owner.email]]
    assert Alert.objects.get().emailed_at == NOW


def test_one_owners_bad_address_brings_the_others_one_letter_all_the_same(
    deployment: Deployment, price: PriceVersion, owner: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = factories.make_member(
        organization=deployment.workspace.organization, role=Membership.Role.OWNER
    )
    send = alerts.send_mail

    def refuse_the_owners(subject: str, text: str, sender: None, to: list[str]) -> int:
        if to == [owner.email]:
            raise SMTPRecipientsRefused({owner.email: (550, b"no such user")})
        return int(send(subject, text, sender, to))

    budget(deployment, daily_budget_nanos=1000)
    spend(deployment, price, 500)
    alerts.notice(at=NOW)
    with monkeypatch.context() as patch:
        patch.setattr(alerts, "send_mail", refuse_the_owners)
        for _ in range(3):
            alerts.tell(at=NOW)
    assert [letter.to for letter in mail.outbox] == [[second.email]]
    alerts.tell(at=NOW)
    assert [letter.to for letter in mail.outbox] == [[second.email], [owner.email]]
    assert Alert.objects.get().emailed_at == NOW


def test_the_webhook_hears_of_it_once(
    deployment: Deployment, price: PriceVersion, organization: Organization
) -> None:
    budget(deployment, daily_budget_nanos=1000)
    spend(deployment, price, 500)
    with receiving() as receiver:
        deliveries.set_url(organization, receiver.url, at=NOW)
        tasks.raise_alerts()
        tasks.raise_alerts()
        delivery = WebhookDelivery.objects.get()
        claimed = deliveries.claim(delivery.pk, at=datetime.now(UTC))
        assert claimed is not None
        assert deliveries.attempt(claimed, at=datetime.now(UTC))
        ((_, _, body),) = receiver.posts
    event = json.loads(body)
    assert event["type"] == "budget.threshold"
    assert event["data"] == {
        "organization": organization.slug,
        "scope": "deployment",
        "name": f"deployment {deployment.deploy_id}",
        "period": "day",
        "starts_at": NOW.replace(hour=0, minute=0).isoformat(),
        "threshold_percent": 50,
        "used_usd": "0.0000005",
        "limit_usd": "0.000001",
    }


def test_members_see_what_was_told(
    deployment: Deployment,
    price: PriceVersion,
    organization: Organization,
    member_client: Client,
    outsider_client: Client,
) -> None:
    url = reverse("gateway:limit-list", args=[organization.slug])
    assert "Nothing yet." in member_client.get(url).content.decode()
    budget(deployment, daily_budget_nanos=1000)
    spend(deployment, price, 900)
    alerts.notice(at=NOW)
    text = member_client.get(url).content.decode()
    assert "80 % of the daily budget" in text
    assert "50 % of the daily budget" not in text
    assert outsider_client.get(url).status_code == 404
