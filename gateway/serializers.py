"""Shapes of the `aigateway/*` calls of the data API. Part of gateway/api.py."""

from collections.abc import Iterable, Sequence
from typing import Any

from rest_framework import serializers

from billing import money
from billing.models import UsageRecord
from deployments.serializers import ExactTarget
from gateway import allowances


class OneOfField(serializers.ChoiceField):
    """A choice whose refusal says what there is to choose from."""

    def __init__(self, choices: Sequence[Any], **options: Any) -> None:
        super().__init__(choices, **options)
        names = ", ".join(map(str, self.choices))
        self.error_messages["invalid_choice"] = f"'{{input}}' is none of {names}."


class KeyTargetSerializer(ExactTarget):
    """Which deployment is meant; the workspace's default when left out."""


class RotateSerializer(KeyTargetSerializer):
    """A target, and how long the old key may go on working."""

    graceSeconds = serializers.IntegerField(
        required=False, default=0, min_value=0, max_value=7 * 24 * 3600
    )


class UsageQuerySerializer(KeyTargetSerializer):
    """What to sum up; the last 30 days by day when left out."""

    GROUPS = ("day", "model", "deployment")

    groupBy = OneOfField(GROUPS, required=False, default="day")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """Adds `from` and `to`, which Python does not allow as attribute names."""
        fields = super().get_fields()
        fields["from"] = serializers.DateTimeField(required=False)
        fields["to"] = serializers.DateTimeField(required=False)
        return fields


class CallsQuerySerializer(KeyTargetSerializer):
    """Which calls to list; the latest 50 when left out."""

    LIMIT_MAX = 200

    limit = serializers.IntegerField(required=False, default=50, min_value=1, max_value=LIMIT_MAX)
    before = serializers.UUIDField(required=False, help_text="`older` of the page before.")
    model = serializers.CharField(required=False, max_length=120, help_text="As it was asked for.")
    status = OneOfField(UsageRecord.Status.choices, required=False)
    requestId = serializers.CharField(required=False, max_length=64)


def _refuse_unknown(known: Iterable[str], given: Iterable[str]) -> None:
    """A misspelt limit must not look as if it were set. Raises ValidationError naming it."""
    for name in given:
        if name not in known:
            names = ", ".join(known)
            raise serializers.ValidationError({name: f"Unknown. The limits are {names}."})


class DollarsField(serializers.Field[int, Any, str, Any]):
    """A positive amount of dollars as text or whole number; nano-dollars inside."""

    def to_internal_value(self, data: Any) -> int:
        """Nano-dollars. Raises ValidationError saying what to send."""
        if isinstance(data, bool) or not isinstance(data, str | int):
            raise serializers.ValidationError('Send dollars as text, such as "25.00".')
        try:
            return allowances.budget_from_dollars(data)
        except allowances.UnableToReadBudget as error:
            raise serializers.ValidationError(str(error)) from None

    def to_representation(self, value: int) -> str:
        """Exact dollars."""
        return format(money.dollars_from_nanos(value), "f")


class LimitValuesSerializer(serializers.Serializer[Any]):
    """Limits of one scope; null for none. What is left out of a change stays as it is."""

    requestsPerMinute = serializers.IntegerField(
        source="requests_per_minute",
        required=False,
        allow_null=True,
        min_value=1,
        max_value=allowances.NUMBER_MAX,
    )
    tokensPerMinute = serializers.IntegerField(
        source="tokens_per_minute",
        required=False,
        allow_null=True,
        min_value=1,
        max_value=allowances.NUMBER_MAX,
    )
    concurrency = serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=allowances.NUMBER_MAX
    )
    dailyBudgetUsd = DollarsField(source="daily_budget_nanos", required=False, allow_null=True)
    monthlyBudgetUsd = DollarsField(source="monthly_budget_nanos", required=False, allow_null=True)
    models = serializers.ListField(
        source="allowed_models",
        child=serializers.CharField(max_length=allowances.MODEL_NAME_MAX),
        required=False,
        allow_null=True,
        allow_empty=False,
        max_length=allowances.MODELS_MAX,
        error_messages={"empty": "Name at least one model, or send null to allow all."},
        help_text="Public names of the models that may be used; null for all.",
    )

    def to_internal_value(self, data: Any) -> Any:
        """Refuses what is no limit, by name."""
        if isinstance(data, dict):
            _refuse_unknown(self.fields, data)
        return super().to_internal_value(data)


class LimitsSerializer(KeyTargetSerializer):
    """Whose limits to read, and with `limits` to change: one scope's at a time."""

    SCOPES = ("key", "deployment", "workspace")

    scope = OneOfField(SCOPES, required=False, default="deployment")
    limits = LimitValuesSerializer(required=False)


class LimitsAnswerSerializer(serializers.Serializer[None]):
    """Answer of `limits`: what each scope has set, and the lowest of all."""

    deployId = serializers.CharField()
    key = LimitValuesSerializer(allow_null=True, help_text="null without a key.")
    deployment = LimitValuesSerializer()
    workspace = LimitValuesSerializer()
    organization = LimitValuesSerializer(help_text="Set by its owners, staff or the platform.")
    effective = LimitValuesSerializer()


class ProvisionedSerializer(serializers.Serializer[None]):
    """Answer of `provision` and `rotate`."""

    deployId = serializers.CharField()
    apiKey = serializers.CharField()
    baseUrl = serializers.CharField()
    isNew = serializers.BooleanField()
    models = serializers.ListField(child=serializers.CharField())
    environment = serializers.ListField(
        child=serializers.CharField(), help_text="Variables injected at the next deploy."
    )
    warnings = serializers.ListField(child=serializers.CharField())


class KeyInfoSerializer(serializers.Serializer[None]):
    """Answer of `info`."""

    exists = serializers.BooleanField()
    deployId = serializers.CharField()
    keyPrefix = serializers.CharField(allow_null=True)
    baseUrl = serializers.CharField()
    createdAt = serializers.DateTimeField(allow_null=True)
    lastUsedAt = serializers.DateTimeField(allow_null=True)
    limits = LimitValuesSerializer(help_text="The lowest of every scope's.")
    models = serializers.ListField(
        child=serializers.CharField(), help_text="Those the key may use now."
    )


class RevokedSerializer(serializers.Serializer[None]):
    """Answer of `revoke`."""

    deployId = serializers.CharField()
    revoked = serializers.BooleanField()


class UsageSerializer(serializers.Serializer[None]):
    """Answer of `usage`; costs in nano-dollars and as dollars."""

    groupBy = serializers.CharField()
    rows = serializers.ListField(child=serializers.DictField())
    total = serializers.DictField()


class CallsSerializer(serializers.Serializer[None]):
    """Answer of `calls`."""

    calls = serializers.ListField(child=serializers.DictField())
    older = serializers.CharField(allow_null=True)
