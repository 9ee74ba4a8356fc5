"""The `aigateway/*` calls of the data API: provision, info, revoke, rotate, usage.

Parses, makes one domain call, answers. Every call takes an optional `deployId`; without it the
workspace's default deployment is meant. Foreign deployments are indistinguishable from none: 404.
"""

from datetime import timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import Serializer
from rest_framework.views import APIView

from billing import usage
from billing.money import dollars_from_nanos
from deployments import directory
from gateway import keys, provisioning
from gateway.models import ModelRoute
from gateway.provisioning import Provisioned
from gateway.serializers import (
    KeyInfoSerializer,
    ProvisionedSerializer,
    RevokedSerializer,
    RotateSerializer,
    TargetSerializer,
    UsageQuerySerializer,
    UsageSerializer,
)
from orgs.errors import DataApiError

USAGE_DAYS_DEFAULT = 30
USAGE_DAYS_MAX = 366


class AigatewayView(APIView):
    """What the five calls share: reading the body, and the 404 for a missing deployment."""

    serializer_class: type[Serializer[None]] = TargetSerializer

    def read(self, request: Request) -> dict[str, Any]:
        """The validated body. Raises ValidationError naming the field."""
        body = self.serializer_class(data=request.data or {})
        body.is_valid(raise_exception=True)
        return dict(body.validated_data)

    def handle_exception(self, exc: Exception) -> Response:
        """A missing deployment becomes the documented 404."""
        if isinstance(exc, directory.DeploymentNotFound):
            exc = DataApiError("deployment_not_found", str(exc), status_code=404)
        return super().handle_exception(exc)


def _describe(provisioned: Provisioned) -> dict[str, Any]:
    warnings = [
        f"{name} is set by you and wins over the gateway's value: the app bypasses the gateway. "
        "Remove it with update-env (null) or from .env.production."
        for name in provisioned.overridden
    ]
    models = ModelRoute.objects.filter(is_active=True).values_list("public_name", flat=True)
    return {
        "deployId": provisioned.deployment.deploy_id,
        "apiKey": provisioned.secret,
        "baseUrl": provisioning.base_url(),
        "isNew": provisioned.is_new,
        "models": sorted(set(models)),
        "environment": [
            name for name in provisioning.VARIABLES if name not in provisioned.overridden
        ],
        "warnings": warnings,
    }


class ProvisionView(AigatewayView):
    """Create the deployment's key, or answer the one it has."""

    @extend_schema(request=TargetSerializer, responses=ProvisionedSerializer, tags=["aigateway"])
    def post(self, request: Request) -> Response:
        """Safe to retry: the same key comes back with `isNew: false`."""
        body = self.read(request)
        provisioned = provisioning.provision(
            request.user.workspace, body.get("deployId"), at=timezone.now()
        )
        return _secret_response(_describe(provisioned))


class RotateView(AigatewayView):
    """Replace the deployment's key."""

    serializer_class = RotateSerializer

    @extend_schema(request=RotateSerializer, responses=ProvisionedSerializer, tags=["aigateway"])
    def post(self, request: Request) -> Response:
        """The old key works for `graceSeconds` more."""
        body = self.read(request)
        provisioned = provisioning.rotate(
            request.user.workspace,
            body.get("deployId"),
            grace_seconds=body["graceSeconds"],
            at=timezone.now(),
        )
        return _secret_response(_describe(provisioned))


def _secret_response(body: dict[str, Any]) -> Response:
    return Response(body, headers={"Cache-Control": "no-store"})


class InfoView(AigatewayView):
    """Whether the deployment has a key; never creates one, never shows the secret."""

    @extend_schema(request=TargetSerializer, responses=KeyInfoSerializer, tags=["aigateway"])
    def post(self, request: Request) -> Response:
        """The key's prefix and dates."""
        body = self.read(request)
        deployment = directory.require_deployed(request.user.workspace, body.get("deployId"))
        key = keys.current(deployment)
        return Response(
            {
                "exists": key is not None,
                "deployId": deployment.deploy_id,
                "keyPrefix": key.prefix if key else None,
                "baseUrl": provisioning.base_url(),
                "createdAt": key.created_at if key else None,
                "lastUsedAt": key.last_used_at if key else None,
                "limits": {},
            }
        )


class RevokeView(AigatewayView):
    """Refuse the deployment's key from now on, on every process within a second."""

    @extend_schema(request=TargetSerializer, responses=RevokedSerializer, tags=["aigateway"])
    def post(self, request: Request) -> Response:
        """Revoking twice is not an error."""
        body = self.read(request)
        deployment = provisioning.revoke(
            request.user.workspace, body.get("deployId"), at=timezone.now()
        )
        return Response({"deployId": deployment.deploy_id, "revoked": True})


class UsageView(AigatewayView):
    """Tokens, cost and calls of the workspace's deployments."""

    serializer_class = UsageQuerySerializer

    @extend_schema(request=UsageQuerySerializer, responses=UsageSerializer, tags=["aigateway"])
    def post(self, request: Request) -> Response:
        """Grouped by day, model or deployment."""
        body = self.read(request)
        end = body.get("to") or timezone.now()
        start = body.get("from") or end - timedelta(days=USAGE_DAYS_DEFAULT)
        if not start < end or end - start > timedelta(days=USAGE_DAYS_MAX):
            raise DataApiError(
                "invalid_request",
                f"from: must be before 'to' and at most {USAGE_DAYS_MAX} days earlier.",
            )
        scope: dict[str, Any] = {"workspace_id": request.user.workspace.pk}
        if deploy_id := body.get("deployId"):
            deployment = directory.require_deployed(request.user.workspace, deploy_id)
            scope["deployment_id"] = deployment.pk
        group = {"day": usage.per_day, "model": usage.per_model, "deployment": usage.per_deployment}
        organization = request.user.organization
        rows = group[body["groupBy"]](organization, start, end, **scope)
        total = usage.summary(organization, start, end, **scope)
        return Response(
            {
                "groupBy": body["groupBy"],
                "rows": [_describe_usage(row) for row in rows],
                "total": _describe_usage(total),
            }
        )


def _describe_usage(row: Any) -> dict[str, Any]:
    """One line of usage: what it is grouped by, counts, and the cost in both units."""
    described = {name: getattr(row, name) for name in row.__slots__}
    described["costNanos"] = described.pop("cost_nanos")
    described["costUsd"] = format(dollars_from_nanos(described["costNanos"]), "f")
    return described
