"""Shapes of the `aigateway/*` calls of the data API. Part of gateway/api.py."""

from typing import Any

from rest_framework import serializers


class TargetSerializer(serializers.Serializer[None]):
    """Which deployment is meant; the workspace's default when left out."""

    deployId = serializers.CharField(required=False, max_length=63)  # noqa: N815


class RotateSerializer(TargetSerializer):
    """A target, and how long the old key may go on working."""

    graceSeconds = serializers.IntegerField(  # noqa: N815
        required=False, default=0, min_value=0, max_value=7 * 24 * 3600
    )


class UsageQuerySerializer(TargetSerializer):
    """What to sum up; the last 30 days by day when left out."""

    GROUPS = ("day", "model", "deployment")

    groupBy = serializers.ChoiceField(choices=GROUPS, required=False, default="day")  # noqa: N815

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """Adds `from` and `to`, which Python does not allow as attribute names."""
        fields = super().get_fields()
        fields["from"] = serializers.DateTimeField(required=False)
        fields["to"] = serializers.DateTimeField(required=False)
        return fields


class ProvisionedSerializer(serializers.Serializer[None]):
    """Answer of `provision` and `rotate`."""

    deployId = serializers.CharField()  # noqa: N815
    apiKey = serializers.CharField()  # noqa: N815
    baseUrl = serializers.CharField()  # noqa: N815
    isNew = serializers.BooleanField()  # noqa: N815
    models = serializers.ListField(child=serializers.CharField())
    environment = serializers.ListField(
        child=serializers.CharField(), help_text="Variables injected at the next deploy."
    )
    warnings = serializers.ListField(child=serializers.CharField())


class KeyInfoSerializer(serializers.Serializer[None]):
    """Answer of `info`."""

    exists = serializers.BooleanField()
    deployId = serializers.CharField()  # noqa: N815
    keyPrefix = serializers.CharField(allow_null=True)  # noqa: N815
    baseUrl = serializers.CharField()  # noqa: N815
    createdAt = serializers.DateTimeField(allow_null=True)  # noqa: N815
    lastUsedAt = serializers.DateTimeField(allow_null=True)  # noqa: N815
    limits = serializers.DictField()


class RevokedSerializer(serializers.Serializer[None]):
    """Answer of `revoke`."""

    deployId = serializers.CharField()  # noqa: N815
    revoked = serializers.BooleanField()


class UsageSerializer(serializers.Serializer[None]):
    """Answer of `usage`; costs in nano-dollars and as dollars."""

    groupBy = serializers.CharField()  # noqa: N815
    rows = serializers.ListField(child=serializers.DictField())
    total = serializers.DictField()
