"""Keys of deployments, credentials of providers, routes from model names to upstreams, limits.

Owns what the hot path reads through `gateway.snapshot`; the hot path itself never touches these
classes. No secret here is stored in the clear, and none is ever shown in the admin.
"""

from typing import ClassVar

from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from deployments.models import Deployment
from gateway.providers import PROVIDERS
from orgs import identifiers
from orgs.models import Organization


def key_id() -> str:
    """Default of `GatewayKey.public_id`."""
    return identifiers.public_id("key")


def credential_id() -> str:
    """Default of `ProviderCredential.public_id`."""
    return identifiers.public_id("cred")


class GatewayKey(models.Model):
    """A deployment's key for the AI API, `aig_<deployId>_<secret>`.

    Verified by digest; the encrypted text exists so that `provision` can answer the same key again.
    """

    deployment = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="keys")
    public_id = models.CharField(max_length=32, unique=True, default=key_id)
    prefix = models.CharField(max_length=80, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    secret_sealed = models.TextField(editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    # Set when a browser sent the key: the console tells the owner to rotate it.
    exposed_at = models.DateTimeField(null=True, blank=True, editable=False)
    # Set by rotation: the key works until then.
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created_at",)
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["deployment"],
                name="gateway_one_current_key_per_deployment",
                condition=Q(revoked_at=None, expires_at=None),
            )
        ]

    def __str__(self) -> str:
        return f"{self.prefix}…"


class ProviderCredential(models.Model):
    """Where a provider is and what we authenticate with there. Wins over the environment."""

    public_id = models.CharField(max_length=32, unique=True, default=credential_id)
    provider = models.CharField(
        max_length=40, choices=[(name, row.label) for name, row in PROVIDERS.items()]
    )
    name = models.CharField(max_length=120)
    # Not a URLField, which refuses host names without a dot: an upstream may be a machine nearby.
    base_url = models.CharField(
        max_length=300,
        blank=True,
        validators=[
            RegexValidator(
                r"^https?://[^/?#@\s]+(/[^?#\s]*)?$",
                "Give an http(s) address without a query, such as https://api.openai.com/v1.",
            )
        ],
        help_text="Leave empty for the provider's own address.",
    )
    api_key_sealed = models.TextField(blank=True, editable=False)
    api_key_hint = models.CharField(max_length=8, blank=True, editable=False)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("provider", "name")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["provider"],
                name="gateway_one_active_credential_per_provider",
                condition=Q(is_active=True),
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_provider_display()}: {self.name}"


class ModelRoute(models.Model):
    """A model name offered to callers, and who serves it. Several rows: tried by `position`."""

    public_name = models.CharField(max_length=120)
    aliases = models.JSONField(default=list, blank=True)
    provider = models.CharField(
        max_length=40, choices=[(name, row.label) for name, row in PROVIDERS.items()]
    )
    upstream_name = models.CharField(max_length=120)
    dialect = models.CharField(
        max_length=40,
        blank=True,
        help_text="Leave empty for the wires the provider speaks; name one if this model has only "
        "that one, such as openai_responses.",
    )
    position = models.PositiveSmallIntegerField(default=0)
    weight = models.PositiveSmallIntegerField(default=1)
    context_tokens_max = models.PositiveIntegerField()
    output_tokens_max = models.PositiveIntegerField()
    capabilities = models.JSONField(default=list, blank=True)
    is_active = models.BooleanField(default=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("public_name", "position")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["public_name", "provider", "upstream_name"], name="gateway_route_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.public_name} → {self.provider}/{self.upstream_name}"


class Limit(models.Model):
    """What one scope may use. Empty means no limit of its own; every scope above still counts.

    Staff's limits of an organization are rows of their own, so that no owner can raise them.
    `scope_id` is the primary key of the key, deployment, workspace or organization.
    """

    class Scope(models.TextChoices):
        KEY = "KEY", "Key"
        DEPLOYMENT = "DEPLOYMENT", "Deployment"
        WORKSPACE = "WORKSPACE", "Workspace"
        ORGANIZATION = "ORGANIZATION", "Organization"
        STAFF = "STAFF", "Organization, set by staff"

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="limits")
    scope = models.CharField(max_length=16, choices=Scope)
    scope_id = models.BigIntegerField()
    requests_per_minute = models.PositiveBigIntegerField(null=True, blank=True)
    tokens_per_minute = models.PositiveBigIntegerField(null=True, blank=True)
    concurrency = models.PositiveBigIntegerField(
        null=True, blank=True, help_text="Calls in flight at the same time."
    )
    daily_budget_nanos = models.PositiveBigIntegerField(null=True, blank=True)
    monthly_budget_nanos = models.PositiveBigIntegerField(null=True, blank=True)
    # Public names; empty for all. One that nobody offers any more allows nothing.
    allowed_models = models.JSONField(default=list, blank=True)
    updated_at = models.DateTimeField(auto_now=True, editable=False)

    class Meta:
        ordering = ("organization", "scope", "scope_id")
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["scope", "scope_id"], name="gateway_limit_once"),
            models.CheckConstraint(
                name="gateway_limit_positive",
                condition=(Q(requests_per_minute=None) | Q(requests_per_minute__gt=0))
                & (Q(tokens_per_minute=None) | Q(tokens_per_minute__gt=0))
                & (Q(concurrency=None) | Q(concurrency__gt=0))
                & (Q(daily_budget_nanos=None) | Q(daily_budget_nanos__gt=0))
                & (Q(monthly_budget_nanos=None) | Q(monthly_budget_nanos__gt=0)),
            ),
            models.CheckConstraint(
                name="gateway_limit_of_its_organization",
                condition=~Q(scope__in=["ORGANIZATION", "STAFF"])
                | Q(scope_id=F("organization_id")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_scope_display()} {self.scope_id} of {self.organization}"


class Alert(models.Model):
    """Said once: so much of a budget, or of the credit since the last top-up, is used."""

    class Period(models.TextChoices):
        DAY = "DAY", "Daily budget"
        MONTH = "MONTH", "Monthly budget"
        CREDIT = "CREDIT", "Credit"

    organization = models.ForeignKey(Organization, on_delete=models.CASCADE, related_name="alerts")
    scope = models.CharField(max_length=16, choices=Limit.Scope)
    scope_id = models.BigIntegerField()
    # Whose it is, in words: what it names may be gone when somebody reads this.
    name = models.CharField(max_length=200)
    period = models.CharField(max_length=8, choices=Period)
    # The day, the month, or the top-up.
    starts_at = models.DateTimeField()
    threshold_percent = models.PositiveSmallIntegerField()
    used_nanos = models.BigIntegerField()
    limit_nanos = models.BigIntegerField()
    created_at = models.DateTimeField()
    # A lower threshold that was passed together with a higher one is noted and not told.
    is_told = models.BooleanField(default=True)
    emailed_at = models.DateTimeField(null=True, blank=True)
    # Ids of owners who have got the letter, while others have not.
    emailed_to = models.JSONField(default=list, blank=True)
    queued_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes: ClassVar = [
            models.Index(
                fields=["created_at"],
                name="gateway_alert_to_tell",
                condition=Q(is_told=True) & (Q(emailed_at=None) | Q(queued_at=None)),
            )
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=[
                    "organization",
                    "scope",
                    "scope_id",
                    "period",
                    "starts_at",
                    "threshold_percent",
                ],
                condition=Q(period="CREDIT"),
                name="gateway_alert_once",
            ),
            # A budget that was changed is another one: what is left of it is told anew.
            models.UniqueConstraint(
                fields=[
                    "organization",
                    "scope",
                    "scope_id",
                    "period",
                    "starts_at",
                    "threshold_percent",
                    "limit_nanos",
                ],
                condition=~Q(period="CREDIT"),
                name="gateway_alert_once_per_budget",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.threshold_percent} % of the {self.get_period_display().lower()}: {self.name}"


class StoredItem(models.Model):
    """Something kept for a client between calls, encrypted, until it expires."""

    class Kind(models.TextChoices):
        RESPONSE = "RESPONSE", "Response"
        ITEM = "ITEM", "Response item"
        TOOL_CALL = "TOOL_CALL", "State of a tool call"
        FORGOTTEN = "FORGOTTEN", "Turn of a deleted response that others continue"

    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="stored_items"
    )
    kind = models.CharField(max_length=16, choices=Kind)
    item_id = models.CharField(max_length=200)
    # The response that this one continues.
    previous_id = models.CharField(max_length=200, blank=True, default="")
    payload_sealed = models.TextField(editable=False)
    created_at = models.DateTimeField(editable=False)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "kind", "item_id"], name="gateway_stored_item_unique"
            )
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["organization", "previous_id"],
                name="gateway_stored_item_continued",
                condition=~models.Q(previous_id=""),
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.item_id}"
