"""Shapes of the `aigateway/*` calls of the data API. Part of gateway/api.py."""

from typing import Any

from rest_framework import serializers


class KeyTargetSerializer(serializers.Serializer[None]):
    """Which deployment is meant; the workspace's default when left out."""

    deployId = serializers.CharField(required=False, max_length=63)


class RotateSerializer(KeyTargetSerializer):
    """A target, and how long the old key may go on working."""

    graceSeconds = serializers.IntegerField(
        required=False, default=0, min_value=0, max_value=7 * 24 * 3600
    )


class UsageQuerySerializer(KeyTargetSerializer):
    """What to sum up; the last 30 days by day when left out."""

    GROUPS = ("day", "model", "deployment")

    groupBy = serializers.ChoiceField(choices=GROUPS, required=False, default="day")

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """Adds `from` and `to`, which Python does not allow as attribute names."""
        fields = super().get_fields()
        fields["from"] = serializers.DateTimeField(required=False)
        fields["to"] = serializers.DateTimeField(required=False)
        return fields


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
    limits = serializers.DictField()


class RevokedSerializer(serializers.Serializer[None]):
    """Answer of `revoke`."""

    deployId = serializers.CharField()
    revoked = serializers.BooleanField()


class UsageSerializer(serializers.Serializer[None]):
    """Answer of `usage`; costs in nano-dollars and as dollars."""

    groupBy = serializers.CharField()
    rows = serializers.ListField(child=serializers.DictField())
    total = serializers.DictField()
