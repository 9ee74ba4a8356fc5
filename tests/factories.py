"""Plain functions that make domain objects with sensible defaults; keyword-only."""

import itertools
from datetime import timedelta

from django.utils import timezone

from billing.models import PriceVersion
from deployments.models import Deployment, Release
from gateway.models import ModelRoute
from orgs import tokens
from orgs.models import Membership, Organization, User, Workspace

_numbers = itertools.count(1)
PASSWORD = "correct horse battery"


def make_organization(*, name: str = "Acme") -> Organization:
    number = next(_numbers)
    return Organization.objects.create(name=name, slug=f"{name.lower()}-{number}")


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
    *, provider: str = "local", model: str = "smollm2-135m", input_nanos: int = 20_000_000,
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
        output_tokens_max=2048,
    )
