"""Bodies and answers of the data API's deployment calls.

Owns field names and limits of the wire; must not look anything up. Answers are described for the
OpenAPI page and built by the `describe_` functions.
"""

from typing import Any

from drf_spectacular.extensions import OpenApiSerializerExtension
from rest_framework import serializers

from deployments import directory, logs, variables
from deployments.models import Deployment, LogEntry, Release

LOG_MINUTES_MAX = 480
LOG_MINUTES_DEFAULT = 60


def _name_field(help_text: str) -> serializers.CharField:
    return serializers.CharField(
        required=False, allow_null=True, max_length=63, default=None, help_text=help_text
    )


class Target(serializers.Serializer[Any]):
    """Which deployment is meant; none is the workspace's default deployment."""

    id = _name_field("Prefix of the deployment; its full deployId works too.")
    deployId = _name_field("Full id of the deployment, `<prefix>-<10 hex>`.")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """One of the two names, or both if they say the same."""
        if attrs["id"] and attrs["deployId"] and attrs["id"] != attrs["deployId"]:
            raise serializers.ValidationError(
                {"deployId": "Give either id or deployId, not two different ones."}
            )
        return attrs

    @property
    def name(self) -> str | None:
        """The prefix or deploy id asked for, or None."""
        name: str | None = self.validated_data["deployId"] or self.validated_data["id"]
        return name


class ExactTarget(Target):
    """A target that refuses fields it does not know: a typo must not mean the default."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Every field of the body is one of ours."""
        unknown = sorted(set(self.initial_data) - set(self.fields))
        if unknown:
            known = ", ".join(self.fields)
            raise serializers.ValidationError({unknown[0]: f"Unknown field; there is: {known}."})
        return super().validate(attrs)


class ExactTargetExtension(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """For the schema: such a body has no other fields."""

    target_class = ExactTarget
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> dict[str, Any]:
        """The schema as it is anyway, closed."""
        schema = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        return {**schema, "additionalProperties": False}


class LogsRequest(Target):
    """How far back to look, and for which lines."""

    minutes = serializers.IntegerField(
        min_value=1, max_value=LOG_MINUTES_MAX, required=False, default=LOG_MINUTES_DEFAULT
    )
    requestId = serializers.CharField(
        required=False,
        allow_null=True,
        max_length=64,
        default=None,
        help_text="Only lines of this request: the site's `x-request-id`.",
    )
    functionName = serializers.CharField(
        required=False,
        allow_null=True,
        max_length=200,
        default=None,
        help_text="Only lines of this function.",
    )

    @property
    def only(self) -> logs.LineFilter:
        """The filter asked for."""
        return logs.LineFilter(
            self.validated_data["requestId"] or "", self.validated_data["functionName"] or ""
        )


class EnvironmentRequest(ExactTarget):
    """Variables to set, or with null to remove."""

    environment = serializers.DictField(
        child=serializers.CharField(allow_null=True, allow_blank=True, trim_whitespace=False),
        help_text="Values to set by name; null removes a name.",
    )
    redeploy = serializers.BooleanField(required=False, default=False)

    def validate_environment(self, changes: dict[str, str | None]) -> dict[str, str | None]:
        """Names and values an environment can hold."""
        for name, value in changes.items():
            try:
                variables.check_name(name)
                if value is not None:
                    variables.check_value(name, value)
            except variables.UnableToUseVariable as error:
                raise serializers.ValidationError({name[:200]: str(error)}) from None
        return changes


class RollbackRequest(ExactTarget):
    """Which release to go back to; none is the one before the active one."""

    releaseId = serializers.CharField(required=False, allow_null=True, max_length=32, default=None)


# --- Answers ---------------------------------------------------------------------------------


class UploadUrlAnswer(serializers.Serializer[Any]):
    """Where to PUT the zip."""

    deployId = serializers.CharField()
    uploadUrl = serializers.URLField(help_text="Takes one PUT of the zip, without Authorization.")
    expiresInSeconds = serializers.IntegerField()
    maxBytes = serializers.IntegerField()


class DeployAnswer(serializers.Serializer[Any]):
    """The deployed site."""

    deployId = serializers.CharField()
    url = serializers.URLField()
    status = serializers.CharField()
    mode = serializers.CharField()
    releaseId = serializers.CharField()


class DeploymentAnswer(serializers.Serializer[Any]):
    """A deployment, or `{"exists": false}` alone."""

    exists = serializers.BooleanField()
    deployId = serializers.CharField(required=False)
    prefix = serializers.CharField(required=False)
    url = serializers.URLField(required=False)
    status = serializers.ChoiceField(["deployed", "failed", "pending", "empty"], required=False)
    mode = serializers.CharField(required=False, allow_null=True)
    isDefault = serializers.BooleanField(required=False)
    releaseId = serializers.CharField(required=False, allow_null=True)
    createdAt = serializers.DateTimeField(required=False)
    deployedAt = serializers.DateTimeField(required=False, allow_null=True)
    failure = serializers.CharField(
        required=False, help_text="Why the last deploy failed, when it did."
    )


class DeploymentsAnswer(serializers.Serializer[Any]):
    """The workspace's deployments, newest first."""

    deployments = DeploymentAnswer(many=True)


class MessageAnswer(serializers.Serializer[Any]):
    """A sentence to show."""

    message = serializers.CharField()


class LogEntryAnswer(serializers.Serializer[Any]):
    """One line."""

    id = serializers.IntegerField(help_text="Grows from line to line of a deployment.")
    timestamp = serializers.DateTimeField()
    message = serializers.CharField()
    functionName = serializers.CharField()
    requestId = serializers.CharField()


class LogsAnswer(serializers.Serializer[Any]):
    """Lines, oldest first; or `{"message"}` alone when there can be none."""

    deployId = serializers.CharField(required=False)
    mode = serializers.CharField(required=False)
    functionName = serializers.CharField(required=False)
    entries = LogEntryAnswer(many=True, required=False)
    hasMore = serializers.BooleanField(required=False)
    lastId = serializers.IntegerField(
        required=False, help_text="Where live logs go on: their `after`. 0 before the first line."
    )
    message = serializers.CharField(required=False)


class EnvironmentChangedAnswer(serializers.Serializer[Any]):
    """All names set now, and when they take effect."""

    deployId = serializers.CharField()
    environment = serializers.ListField(child=serializers.CharField())
    appliesOn = serializers.CharField()
    releaseId = serializers.CharField(required=False)


class EnvironmentAnswer(serializers.Serializer[Any]):
    """Masked values by name, and who set each."""

    deployId = serializers.CharField()
    environment = serializers.DictField(child=serializers.CharField())
    sources = serializers.DictField(child=serializers.ChoiceField(["user", "gateway"]))
    bundle = serializers.ListField(
        child=serializers.CharField(), help_text="Names the bundle's .env.production sets."
    )


class ReleaseAnswer(serializers.Serializer[Any]):
    """One release."""

    releaseId = serializers.CharField()
    status = serializers.ChoiceField(["pending", "active", "superseded", "failed"])
    mode = serializers.CharField()
    bundleSha256 = serializers.CharField()
    createdAt = serializers.DateTimeField()
    activatedAt = serializers.DateTimeField(allow_null=True)
    failure = serializers.CharField(required=False)


class ReleasesAnswer(serializers.Serializer[Any]):
    """The deployment's releases, newest first."""

    deployId = serializers.CharField()
    releases = ReleaseAnswer(many=True)


class RedeployAnswer(serializers.Serializer[Any]):
    """The release being made."""

    deployId = serializers.CharField()
    releaseId = serializers.CharField()
    status = serializers.CharField()


def describe_deployment(deployment: Deployment, latest: Release | None) -> dict[str, Any]:
    """`deployment` as DeploymentAnswer; `latest` is the release made last."""
    active = deployment.active_release
    status = "deployed" if active else (latest.status.lower() if latest else "empty")
    answer = {
        "exists": True,
        "deployId": deployment.deploy_id,
        "prefix": deployment.prefix,
        "url": directory.url_of(deployment),
        "status": status,
        "mode": active.mode if active else None,
        "isDefault": deployment.is_default,
        "releaseId": active.public_id if active else None,
        "createdAt": deployment.created_at,
        "deployedAt": deployment.deployed_at,
    }
    if latest is not None and latest.status == Release.Status.FAILED:
        answer["failure"] = latest.failure
    return answer


def describe_release(release: Release) -> dict[str, Any]:
    """`release` as ReleaseAnswer."""
    answer = {
        "releaseId": release.public_id,
        "status": release.status.lower(),
        "mode": release.mode,
        "bundleSha256": release.bundle_sha256,
        "createdAt": release.created_at,
        "activatedAt": release.activated_at,
    }
    if release.failure:
        answer["failure"] = release.failure
    return answer


def describe_deployed(deployment: Deployment, release: Release) -> dict[str, Any]:
    """A deploy or rollback that worked, as DeployAnswer."""
    is_active = release.status == Release.Status.ACTIVE
    return {
        "deployId": deployment.deploy_id,
        "url": directory.url_of(deployment),
        "status": "deployed" if is_active else release.status.lower(),
        "mode": release.mode,
        "releaseId": release.public_id,
    }


def describe_log_entry(entry: LogEntry) -> dict[str, Any]:
    """`entry` as LogEntryAnswer."""
    return {
        "id": entry.pk,
        "timestamp": entry.logged_at,
        "message": entry.message,
        "functionName": entry.function_name,
        "requestId": entry.request_id,
    }
