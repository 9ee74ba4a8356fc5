"""The `aigateway/*` calls of the data API: provision, info, revoke, rotate, usage, calls, limits.

Parses, makes one domain call, answers. Every call takes an optional `deployId` or `id`, as the
calls of deployments do; without them the workspace's default deployment is meant, and unknown
fields are refused: a misspelt name must not mean the default. Foreign deployments are
indistinguishable from none: 404.
"""

from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from billing import usage
from billing.models import UsageRecord
from billing.money import dollars_from_nanos
from billing.pricing import BUCKETS
from deployments import directory
from deployments.models import Deployment
from gateway import allowances, keys, provisioning
from gateway.models import GatewayKey
from gateway.provisioning import Provisioned
from gateway.serializers import (
    CallsQuerySerializer,
    CallsSerializer,
    KeyInfoSerializer,
    KeyTargetSerializer,
    LimitsAnswerSerializer,
    LimitsSerializer,
    LimitValuesSerializer,
    ProvisionedSerializer,
    RevokedSerializer,
    RotateSerializer,
    UsageQuerySerializer,
    UsageSerializer,
)
from orgs.data_api import IDEMPOTENCY_PARAMETER, DataApiCall, OnceView, workspace_of
from orgs.errors import DataApiError

USAGE_DAYS_DEFAULT = 30
USAGE_DAYS_MAX = 366
EPOCH_YEAR = 2020
# What `calls` filters by -> the argument of `usage.calls`.
CALL_FILTERS = {
    "before": "before_call_id",
    "model": "model",
    "status": "status",
    "requestId": "request_id",
}


class AigatewayView(DataApiCall):
    """What these calls share: reading the body, and the 404 for a missing deployment."""

    serializer_class: type[KeyTargetSerializer] = KeyTargetSerializer

    def read(self, request: Request) -> dict[str, Any]:
        """The validated body; `deployId` is whichever name was given, or None.

        Raises ValidationError naming the field.
        """
        body = self.serializer_class(data={} if request.data is None else request.data)
        body.is_valid(raise_exception=True)
        return {**body.validated_data, "deployId": body.name}

    def handle_exception(self, exc: Exception) -> Response:
        """A missing deployment becomes the documented 404, an unreadable key a 409."""
        if isinstance(exc, directory.DeploymentNotFound):
            exc = DataApiError("deployment_not_found", str(exc), status_code=404)
        elif isinstance(exc, provisioning.UnableToRevealKey):
            exc = DataApiError("key_unreadable", str(exc), status_code=409)
        return super().handle_exception(exc)


def _describe(provisioned: Provisioned) -> dict[str, Any]:
    warnings = [
        f"{name} is set by you and wins over the gateway's value: the app bypasses the gateway. "
        "Remove it with update-env (null) or from .env.production."
        for name in provisioned.overridden
    ]
    return {
        "deployId": provisioned.deployment.deploy_id,
        "apiKey": provisioned.secret,
        "baseUrl": provisioning.base_url(),
        "isNew": provisioned.is_new,
        "models": allowances.usable_models(provisioned.deployment, provisioned.key),
        "environment": [
            name for name in provisioning.VARIABLES if name not in provisioned.overridden
        ],
        "warnings": warnings,
    }


class ProvisionView(AigatewayView):
    """Create the deployment's key, or answer the one it has."""

    @extend_schema(request=KeyTargetSerializer, responses=ProvisionedSerializer, tags=["aigateway"])
    def post(self, request: Request) -> Response:
        """Safe to retry: the same key comes back with `isNew: false`."""
        body = self.read(request)
        provisioned = provisioning.provision(
            workspace_of(request), body["deployId"], at=timezone.now()
        )
        return _secret_response(_describe(provisioned))


@extend_schema_view(
    post=extend_schema(
        request=RotateSerializer,
        responses=ProvisionedSerializer,
        parameters=[IDEMPOTENCY_PARAMETER],
        description="The old key works for `graceSeconds` more.",
        tags=["aigateway"],
    )
)
class RotateView(AigatewayView, OnceView):
    """Replace the deployment's key."""

    serializer_class = RotateSerializer

    def post_once(self, request: Request) -> Response:
        """The old key works for `graceSeconds` more."""
        body = self.read(request)
        provisioned = provisioning.rotate(
            workspace_of(request),
            body["deployId"],
            grace_seconds=body["graceSeconds"],
            at=timezone.now(),
        )
        return _secret_response(_describe(provisioned))


def _secret_response(body: dict[str, Any]) -> Response:
    return Response(body, headers={"Cache-Control": "no-store"})


class InfoView(AigatewayView):
    """Whether the deployment has a key; never creates one, never shows the secret."""

    @extend_schema(request=KeyTargetSerializer, responses=KeyInfoSerializer, tags=["aigateway"])
    def post(self, request: Request) -> Response:
        """The key's prefix and dates."""
        body = self.read(request)
        deployment = directory.require_deployed(workspace_of(request), body["deployId"])
        key = keys.current(deployment)
        return Response(
            {
                "exists": key is not None,
                "deployId": deployment.deploy_id,
                "keyPrefix": key.prefix if key else None,
                "baseUrl": provisioning.base_url(),
                "createdAt": key.created_at if key else None,
                "lastUsedAt": key.last_used_at if key else None,
                "limits": LimitValuesSerializer(
                    allowances.of_scopes(deployment, key)["effective"]
                ).data,
                "models": allowances.usable_models(deployment, key),
            }
        )


class RevokeView(AigatewayView):
    """Refuse the deployment's key from now on, on every process within a second."""

    @extend_schema(request=KeyTargetSerializer, responses=RevokedSerializer, tags=["aigateway"])
    def post(self, request: Request) -> Response:
        """Revoking twice is not an error."""
        body = self.read(request)
        deployment = provisioning.revoke(workspace_of(request), body["deployId"], at=timezone.now())
        return Response({"deployId": deployment.deploy_id, "revoked": True})


class LimitsView(AigatewayView):
    """Limits of the deployment's key, of itself, and of its workspace."""

    serializer_class = LimitsSerializer

    @extend_schema(request=LimitsSerializer, responses=LimitsAnswerSerializer, tags=["aigateway"])
    def post(self, request: Request) -> Response:
        """Reads them; with `limits`, sets those of `scope` first. They count within a second."""
        body = self.read(request)
        deployment = directory.require_deployed(workspace_of(request), body["deployId"])
        key = keys.current(deployment)
        if "limits" in body:
            _change(_subject(body["scope"], deployment, key), body["limits"])
        scopes = allowances.of_scopes(deployment, key)
        described = {
            name: None if values is None else LimitValuesSerializer(values).data
            for name, values in scopes.items()
        }
        return Response({"deployId": deployment.deploy_id, **described})


def _change(subject: allowances.Subject, limits: allowances.Values) -> None:
    """Set them. Raises ValidationError naming models that there are not."""
    try:
        allowances.change(subject, limits)
    except allowances.UnableToAllowModels as error:
        raise ValidationError({"limits": {"models": str(error)}}) from None


def _subject(scope: str, deployment: Deployment, key: GatewayKey | None) -> allowances.Subject:
    """Whose limits to set. Raises DataApiError when the deployment has no key to limit."""
    organization = deployment.workspace.organization
    if scope == "deployment":
        return allowances.of_deployment(deployment, organization)
    if scope == "workspace":
        return allowances.of_workspace(deployment.workspace, organization)
    if key is None:
        message = "The deployment has no key yet. Provision one first, then limit it."
        raise DataApiError("key_not_found", message, status_code=404)
    return allowances.of_key(key, organization)


class UsageView(AigatewayView):
    """Tokens, cost and calls of the workspace's deployments."""

    serializer_class = UsageQuerySerializer

    @extend_schema(request=UsageQuerySerializer, responses=UsageSerializer, tags=["aigateway"])
    def post(self, request: Request) -> Response:
        """Grouped by day, model or deployment."""
        body = self.read(request)
        start, end = _period(body)
        query: dict[str, Any] = {
            "organization": workspace_of(request).organization,
            "start": start,
            "end": end,
            "workspace_id": workspace_of(request).pk,
        }
        if deploy_id := body["deployId"]:
            deployment = directory.require_deployed(workspace_of(request), deploy_id)
            query["deployment_id"] = deployment.pk
        rows = _usage_rows(body["groupBy"], query)
        return Response(
            {
                "groupBy": body["groupBy"],
                "rows": [{**about, **_describe_usage(totals)} for about, totals in rows],
                "total": _describe_usage(usage.add_up(totals for _, totals in rows)),
            }
        )


class CallsView(AigatewayView):
    """The log of calls: each with what it used, what it cost and why."""

    serializer_class = CallsQuerySerializer

    @extend_schema(request=CallsQuerySerializer, responses=CallsSerializer, tags=["aigateway"])
    def post(self, request: Request) -> Response:
        """Latest first; `older` is the `before` of the next page, null on the last one."""
        body = self.read(request)
        query = {CALL_FILTERS[name]: body[name] for name in CALL_FILTERS.keys() & body.keys()}
        if deploy_id := body["deployId"]:
            deployment = directory.require_deployed(workspace_of(request), deploy_id)
            query["deployment_id"] = deployment.pk
        found = usage.calls(
            workspace_of(request).organization,
            workspace_id=workspace_of(request).pk,
            limit=body["limit"] + 1,
            **query,
        )
        shown = found[: body["limit"]]
        return Response(
            {
                "calls": [_describe_call(call) for call in shown],
                "older": shown[-1].call_id.hex if len(found) > len(shown) else None,
            }
        )


def _describe_call(call: UsageRecord) -> dict[str, Any]:
    """One call: who answered, its tokens per bucket, and its cost with the formula."""
    tokens = zip(BUCKETS, call.usage.counts, strict=True)
    explanation = usage.explain(call)
    return {
        "requestId": call.request_id,
        "startedAt": call.started_at,
        "deployId": call.deploy_id,
        "endpoint": call.endpoint,
        "model": call.model_requested,
        "modelServed": call.model_served,
        "provider": call.provider,
        "status": call.status,
        "httpStatus": call.http_status,
        "errorCode": call.error_code or None,
        "tokens": {_camel_case(bucket): count for bucket, count in tokens if count},
        "reasoningTokens": call.reasoning_tokens,
        "usageSource": call.usage_source,
        "priceVersion": call.price_version_id,
        "marginPercent": usage.percent(call.margin_basis_points),
        "lines": [line.formula for line in explanation.lines],
        "formula": explanation.formula,
        "costNanos": call.cost_nanos,
        "costUsd": format(dollars_from_nanos(call.cost_nanos), "f"),
        "durationMs": call.duration_ms,
        "firstTokenMs": call.first_token_ms,
    }


def _period(body: dict[str, Any]) -> tuple[datetime, datetime]:
    """Start and end of the time asked for. Raises ValidationError."""
    end = body.get("to") or usage.hour_after(timezone.now())
    # A year that cannot be counted back from would overflow, and nothing was used then.
    if end.year < EPOCH_YEAR:
        raise ValidationError({"to": f"Must be in {EPOCH_YEAR} or later."})
    start = body.get("from") or end - timedelta(days=USAGE_DAYS_DEFAULT)
    if not start < end or end - start > timedelta(days=USAGE_DAYS_MAX):
        raise ValidationError(
            {"from": f"Must be before 'to' and at most {USAGE_DAYS_MAX} days earlier."}
        )
    return start, end


def _describe_usage(totals: usage.Totals) -> dict[str, Any]:
    """Calls, tokens of each bucket, and the cost in nano-dollars and exact dollars."""
    return {
        "calls": totals.calls,
        **{
            f"{_camel_case(bucket)}Tokens": tokens
            for bucket, tokens in zip(BUCKETS, totals.usage.counts, strict=True)
        },
        "reasoningTokens": totals.usage.reasoning,
        "costNanos": totals.cost_nanos,
        "costUsd": format(dollars_from_nanos(totals.cost_nanos), "f"),
    }


def _camel_case(name: str) -> str:
    """`cache_read` as this API names things: `cacheRead`."""
    first, *others = name.split("_")
    return first + "".join(other.capitalize() for other in others)


def _usage_rows(group_by: str, query: dict[str, Any]) -> list[tuple[dict[str, Any], usage.Totals]]:
    """Totals per day, model or deployment, each with what it is about."""
    if group_by == "day":
        return [({"day": row.day}, row.totals) for row in usage.per_day(**query)]
    if group_by == "model":
        return [({"model": row.model}, row.totals) for row in usage.per_model(**query)]
    return [({"deployId": row.deploy_id}, row.totals) for row in usage.per_deployment(**query)]
