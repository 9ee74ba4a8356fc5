"""Staff's view of keys, provider credentials, model routes and limits.

Secrets go in and never come out.
"""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminPasswordWidget,
    UnfoldAdminTextInputWidget,
)

from gateway import allowances, credentials, keys
from gateway import forms as limit_forms
from gateway.models import Alert, GatewayKey, Limit, ModelRoute, ProviderCredential
from orgs.admin import ask_first


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
    def revoke(self, request: HttpRequest, queryset: QuerySet[GatewayKey]) -> HttpResponse | None:
        """Refuses the deployments' keys everywhere within a second, once that was confirmed."""
        warning = "Every key of these deployments is refused within a second: apps lose access."
        if page := ask_first(self, request, queryset, "Revoke keys", warning):
            return page
        now = timezone.now()
        count = sum(
            keys.revoke_all(key.deployment, at=now) for key in queryset.select_related("deployment")
        )
        self.message_user(request, f"Revoked {count} key(s).", messages.SUCCESS)
        return None


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


class StaffLimitForm(forms.ModelForm):  # type: ignore[type-arg]
    """Limits of any scope, named as people know it, with budgets in dollars."""

    name = forms.CharField(
        required=False,
        max_length=80,
        widget=UnfoldAdminTextInputWidget(),
        help_text="Deploy id, or public id of the workspace or key. Empty for the organization.",
    )
    daily_budget = limit_forms.DollarsField(
        label="Budget per day (USD)", required=False, widget=UnfoldAdminTextInputWidget()
    )
    monthly_budget = limit_forms.DollarsField(
        label="Budget per month (USD)", required=False, widget=UnfoldAdminTextInputWidget()
    )
    allowed_models = limit_forms.ModelsField(
        label="Models",
        widget=UnfoldAdminCheckboxSelectMultipleWidget(),
        help_text="Models that may be used; with none chosen, all.",
    )

    class Meta:
        model = Limit
        fields = (
            "organization",
            "scope",
            "requests_per_minute",
            "tokens_per_minute",
            "concurrency",
            "allowed_models",
        )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        models = self.fields["allowed_models"]
        assert isinstance(models, limit_forms.ModelsField)  # declared above  # noqa: S101
        models.offer(self.instance.allowed_models)
        if self.instance.pk:
            for name in ("daily_budget", "monthly_budget"):
                self.initial[name] = limit_forms.dollars(getattr(self.instance, f"{name}_nanos"))

    def clean(self) -> dict[str, Any]:
        """Finds whose limits are meant. Raises ValidationError when there is no such thing."""
        cleaned = super().clean() or {}
        if not self.instance.pk and cleaned.get("organization") and cleaned.get("scope"):
            try:
                subject = allowances.find(
                    cleaned["organization"], cleaned["scope"], cleaned.get("name", "")
                )
            except allowances.ScopeNotFound:
                raise forms.ValidationError(
                    {"name": "The organization has no such key, deployment or workspace."}
                ) from None
            self.instance.scope_id = subject.scope_id
            if allowances.read(subject) is not None:
                raise forms.ValidationError("It has limits already: change those.")
        self.instance.daily_budget_nanos = cleaned.get("daily_budget")
        self.instance.monthly_budget_nanos = cleaned.get("monthly_budget")
        return cleaned


@admin.register(Limit)
class LimitAdmin(ModelAdmin):
    """Limits of organizations; those set by staff cannot be raised by owners."""

    form = StaffLimitForm
    list_display = (
        "organization",
        "scope",
        "scope_id",
        "requests_per_minute",
        "tokens_per_minute",
        "concurrency",
        "daily_budget",
        "monthly_budget",
        "models",
        "updated_at",
    )
    list_select_related = ("organization",)
    list_filter = ("scope",)
    search_fields = ("organization__name", "organization__slug")
    autocomplete_fields = ("organization",)
    fields = (
        "organization",
        "scope",
        "name",
        "requests_per_minute",
        "tokens_per_minute",
        "concurrency",
        "daily_budget",
        "monthly_budget",
        "allowed_models",
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Whose they are stays as it is."""
        return ("organization", "scope") if obj else ()

    def get_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """The name is only asked for once."""
        return tuple(name for name in self.fields if obj is None or name != "name")

    @admin.display(description="Budget per day")
    def daily_budget(self, limit: Limit) -> str:
        """In dollars."""
        return limit_forms.dollars(limit.daily_budget_nanos) or "–"

    @admin.display(description="Budget per month")
    def monthly_budget(self, limit: Limit) -> str:
        """In dollars."""
        return limit_forms.dollars(limit.monthly_budget_nanos) or "–"

    @admin.display(description="Models")
    def models(self, limit: Limit) -> str:
        """Their public names."""
        return ", ".join(limit.allowed_models) or "All"


@admin.register(Alert)
class AlertAdmin(ModelAdmin):
    """What organizations were told about their budgets and credit."""

    list_display = (
        "organization",
        "period",
        "scope",
        "name",
        "threshold_percent",
        "created_at",
        "emailed_at",
        "queued_at",
    )
    list_select_related = ("organization",)
    list_filter = ("period", "threshold_percent")
    search_fields = ("organization__name", "organization__slug", "name")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never: alerts are noticed."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never: what was said was said."""
        return False
