"""Plain functions that make domain objects with sensible defaults; keyword-only."""

import itertools
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from billing import calls, charges, leases, ledger, metering, pricing, usage_rows
from billing.journal import records
from billing.models import PriceVersion, Transfer, UsageRecord
from deployments.models import Deployment, Release
from gateway.models import ModelRoute
from orgs import tokens
from orgs.models import Membership, Organization, User, Workspace

_numbers = itertools.count(1)
PASSWORD = "correct horse battery"
SUSPENSION_REASON = "The card of the last invoice was stolen."


def make_organization(*, name: str = "Acme") -> Organization:
    number = next(_numbers)
    return Organization.objects.create(name=name, slug=f"{name.lower()}-{number}")


def suspend(organization: Organization, *, at: datetime) -> None:
    """What staff do in the admin."""
    organization.suspended_at, organization.suspension_reason = at, SUSPENSION_REASON
    organization.full_clean()
    organization.save()


def make_workspace(*, organization: Organization | None = None, name: str = "main") -> Workspace:
    return Workspace.objects.create(organization=organization or make_organization(), name=name)


def make_user(*, email: str | None = None, **fields: object) -> User:
    return User.objects.create_user(
        email or f"person{next(_numbers)}@example.com", PASSWORD, **fields
    )


def make_member(
    *, organization: Organization, role: str = Membership.Role.MEMBER, email: str | None = None
) -> User:
    user = make_user(email=email)
    Membership.objects.create(organization=organization, user=user, role=role)
    return user


def make_token(*, workspace: Workspace, name: str = "agent") -> str:
    """The secret text of a new workspace token."""
    return tokens.issue(workspace, name=name)[1]


def make_deployment(
    *, workspace: Workspace, prefix: str = "app", is_default: bool = True, deployed: bool = True
) -> Deployment:
    """A deployment row; with `deployed`, an active static release without files."""
    number = next(_numbers)
    deployment = Deployment.objects.create(
        workspace=workspace,
        prefix=prefix,
        deploy_id=f"{prefix}-{number:010x}",
        is_default=is_default,
    )
    if deployed:
        now = timezone.now()
        release = Release.objects.create(
            deployment=deployment,
            bundle_sha256="0" * 64,
            status=Release.Status.ACTIVE,
            activated_at=now,
        )
        deployment.active_release = release
        deployment.deployed_at = now
        deployment.save()
    return deployment


def make_price(
    *,
    provider: str = "local",
    model: str = "smollm2-135m",
    input_nanos: int = 20_000_000,
    output_nanos: int = 40_000_000,
) -> PriceVersion:
    """A price from long ago; nano-dollars per million tokens."""
    return PriceVersion.objects.create(
        provider=provider,
        model=model,
        effective_at=timezone.now() - timedelta(days=1),
        rates={
            "input": [{"from_input_tokens": 0, "nanos_per_million": input_nanos}],
            "output": [{"from_input_tokens": 0, "nanos_per_million": output_nanos}],
        },
        source="test",
        created_at=timezone.now(),
    )


def make_route(
    *, public_name: str = "smollm2-135m", provider: str = "local", upstream_name: str | None = None
) -> ModelRoute:
    return ModelRoute.objects.create(
        public_name=public_name,
        provider=provider,
        upstream_name=upstream_name or public_name,
        context_tokens_max=8192,
        output_tokens_max=16_384,
        capabilities=["chat"],
    )


def make_credit(*, organization: Organization, nanos: int = 25_000_000_000) -> Transfer:
    """Promotional credit; $25 by default."""
    return ledger.grant(
        organization,
        nanos,
        reason="test",
        idempotency_key=f"test:{next(_numbers)}",
        at=timezone.now(),
    )


def make_opening(
    *,
    organization: Organization,
    price: PriceVersion,
    hold_nanos: int = 1_000_000,
    started_at: datetime | None = None,
    workspace_id: int = 1,
    deployment_id: int = 1,
    deploy_id: str = "app-0000000001",
    model: str = "smollm2-135m",
    margin_basis_points: int = 0,
    **fields: Any,
) -> metering.Opening:
    """A call about to be sent."""
    started_at = started_at or timezone.now()
    call_id = metering.new_call_id(int(started_at.timestamp() * 1000))
    return metering.Opening(
        call_id=call_id,
        organization_id=organization.pk,
        workspace_id=workspace_id,
        deployment_id=deployment_id,
        deploy_id=deploy_id,
        key_id=1,
        request_id=f"req_{call_id.hex}",
        endpoint="chat.completions",
        is_stream=fields.pop("is_stream", False),
        model_requested=model,
        provider=price.provider,
        upstream_model=price.model,
        price=pricing.Price.from_rates(price.pk, price.rates),
        margin_basis_points=margin_basis_points,
        hold_nanos=hold_nanos,
        started_at=started_at,
        **fields,
    )


def make_ending(
    *,
    usage: pricing.Usage | None = None,
    status: str = UsageRecord.Status.FINISHED,
    http_status: int = 200,
) -> metering.Ending:
    """The end of a call; without usage it cost nothing."""
    return metering.Ending(
        status=status,
        http_status=http_status,
        usage=usage or pricing.Usage(),
        usage_source=UsageRecord.Source.PROVIDER if usage else UsageRecord.Source.NONE,
        model_served="smollm2-135m",
        duration_ms=120,
    )


def make_call(
    *,
    organization: Organization,
    price: PriceVersion,
    usage: pricing.Usage | None = None,
    status: str = UsageRecord.Status.FINISHED,
    started_at: datetime | None = None,
    **opening_fields: Any,
) -> UsageRecord:
    """A call that was sent, charged and recorded, without a running meter."""
    opening = make_opening(
        organization=organization, price=price, started_at=started_at, **opening_fields
    )
    ending = make_ending(usage=usage, status=status)
    cost = calls.cost_nanos(opening, ending)
    with transaction.atomic():
        posted = charges.post(
            {organization.pk: cost} if cost else {},
            journal="test",
            key=f"usage:{opening.call_id.hex}",
            at=opening.started_at,
        )
        transfer_id = posted[organization.pk].transfer_id if cost else None
        usage_rows.add([(records.settlement_of(opening, ending, cost), transfer_id)])
    return UsageRecord.objects.get(pk=opening.call_id)


def reclaim_leases(*, after: datetime) -> list[str]:
    """What the task does in the hours after a moment in which no host renews its leases."""
    looks = [after + number * timedelta(minutes=5) for number in range(leases.LOOKS + 1)]
    return [name for at in looks for name in metering.reclaim_leases(at)]
