"""Staff's view of keys, provider credentials and model routes. Secrets go in and never come out."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.widgets import UnfoldAdminPasswordWidget

from gateway import credentials, keys
from gateway.models import GatewayKey, ModelRoute, ProviderCredential


@admin.register(GatewayKey)
class GatewayKeyAdmin(ModelAdmin):
    """Keys by prefix. They are made by provisioning."""

    list_display = (
        "prefix",
        "deployment",
        "created_at",
        "last_used_at",
        "exposed_at",
        "expires_at",
        "revoked_at",
    )
    list_select_related = ("deployment",)
    list_filter = (
        ("revoked_at", admin.EmptyFieldListFilter),
        ("exposed_at", admin.EmptyFieldListFilter),
    )
    search_fields = ("prefix", "public_id", "deployment__deploy_id")
    date_hierarchy = "created_at"
    fields = (
        "public_id",
        "prefix",
        "deployment",
        "created_at",
        "last_used_at",
        "exposed_at",
        "expires_at",
        "revoked_at",
    )
    readonly_fields = fields
    actions = ("revoke",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never: a key is answered to whoever provisions it, not to staff."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never: usage records name keys; revoke instead."""
        return False

    @admin.action(description="Revoke all keys of these deployments", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[GatewayKey]) -> None:
        """Refuses the deployments' keys everywhere within a second."""
        now = timezone.now()
        count = sum(
            keys.revoke_all(key.deployment, at=now) for key in queryset.select_related("deployment")
        )
        self.message_user(request, f"Revoked {count} key(s).", messages.SUCCESS)


class CredentialForm(forms.ModelForm):  # type: ignore[type-arg]
    """A credential whose key can be set and replaced, never read."""

    api_key = forms.CharField(
        label="API key",
        required=False,
        max_length=500,
        strip=True,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="Encrypted at rest. Leave empty to keep the key that is stored.",
    )

    class Meta:
        model = ProviderCredential
        fields = ("provider", "name", "base_url", "is_active")

    def save(self, commit: bool = True) -> Any:
        """Seals a newly typed key into the row."""
        if api_key := self.cleaned_data["api_key"]:
            credentials.seal_api_key(self.instance, api_key)
        return super().save(commit)


@admin.register(ProviderCredential)
class ProviderCredentialAdmin(ModelAdmin):
    """Where providers are and what we authenticate with."""

    form = CredentialForm
    list_display = ("name", "provider", "base_url", "hint", "is_active", "created_at")
    list_filter = ("provider", "is_active")
    search_fields = ("name", "public_id", "base_url")
    fields = (
        "provider",
        "name",
        "base_url",
        "api_key",
        "hint",
        "is_active",
        "public_id",
        "created_at",
    )
    readonly_fields = ("hint", "public_id", "created_at")

    @admin.display(description="Stored key")
    def hint(self, credential: ProviderCredential) -> str:
        """Its last four characters, to recognise it by."""
        if not credential.api_key_sealed:
            return "None"
        return f"…{credential.api_key_hint}" if credential.api_key_hint else "Set"


@admin.register(ModelRoute)
class ModelRouteAdmin(ModelAdmin):
    """Model names callers may use, and who serves them."""

    list_display = (
        "public_name",
        "provider",
        "upstream_name",
        "position",
        "context_tokens_max",
        "output_tokens_max",
        "is_active",
    )
    list_filter = ("provider", "is_active")
    search_fields = ("public_name", "upstream_name")
    readonly_fields = ("created_at",)
