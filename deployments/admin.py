"""Staff's view of deployments. Values of variables and environments of releases never appear."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from deployments.models import Deployment, EnvironmentVariable, LogEntry, Release, Upload


class ObservedAdmin(ModelAdmin):
    """Rows that only a deploy makes or changes: staff look."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never; the view permission shows the row."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never: a release in use would take its deployment with it."""
        return False


@admin.register(Deployment)
class DeploymentAdmin(ObservedAdmin):
    """Apps and their addresses."""

    list_display = (
        "deploy_id",
        "workspace",
        "is_default",
        "active_release",
        "deployed_at",
        "deleted_at",
    )
    list_select_related = ("workspace__organization", "active_release")
    list_filter = ("is_default", ("deleted_at", admin.EmptyFieldListFilter))
    search_fields = ("deploy_id", "prefix", "workspace__name", "workspace__organization__name")
    date_hierarchy = "created_at"


@admin.register(Release)
class ReleaseAdmin(ObservedAdmin):
    """Versions of deployments."""

    list_display = ("public_id", "deployment", "status", "mode", "created_at", "activated_at")
    list_select_related = ("deployment",)
    list_filter = ("status", "mode")
    search_fields = ("public_id", "deployment__deploy_id", "bundle_sha256")
    date_hierarchy = "created_at"
    exclude = ("environment_sealed",)


@admin.register(Upload)
class UploadAdmin(ObservedAdmin):
    """Bundles on their way. The nonce is part of a working upload address, so it stays hidden."""

    list_display = ("deployment", "status", "size_bytes", "created_at", "received_at")
    list_select_related = ("deployment",)
    list_filter = ("status",)
    search_fields = ("deployment__deploy_id", "sha256")
    date_hierarchy = "created_at"
    exclude = ("nonce",)


@admin.register(EnvironmentVariable)
class EnvironmentVariableAdmin(ObservedAdmin):
    """Names of variables; values are encrypted and never shown."""

    list_display = ("name", "deployment", "source", "updated_at")
    list_select_related = ("deployment",)
    list_filter = ("source",)
    search_fields = ("name", "deployment__deploy_id")
    fields = ("deployment", "name", "source", "updated_at")


@admin.register(LogEntry)
class LogEntryAdmin(ObservedAdmin):
    """What functions printed."""

    list_display = ("logged_at", "deployment", "function_name", "request_id", "shortened")
    list_select_related = ("deployment",)
    search_fields = ("deployment__deploy_id", "request_id")
    date_hierarchy = "logged_at"
    show_full_result_count = False

    @admin.display(description="Message")
    def shortened(self, entry: LogEntry) -> str:
        """Enough to recognise a line."""
        return str(entry)
