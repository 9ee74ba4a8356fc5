"""Tenancy: organization > workspace, people as members of organizations, tokens for agents.

Owns who exists and who belongs where. Must know nothing of money, deployments or keys of the
gateway. Credits belong to the organization; nothing of one organization is visible to another.
"""

from datetime import datetime
from typing import ClassVar

from django.contrib.auth.base_user import BaseUserManager
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils import timezone

from orgs import identifiers


def organization_id() -> str:
    """Default of `Organization.public_id`."""
    return identifiers.public_id("org")


def workspace_id() -> str:
    """Default of `Workspace.public_id`."""
    return identifiers.public_id("ws")


def endpoint_id() -> str:
    """Default of `WebhookEndpoint.public_id`."""
    return identifiers.public_id("whe")


def token_id() -> str:
    """Default of `WorkspaceToken.public_id`."""
    return identifiers.public_id("tok")


class UserManager(BaseUserManager["User"]):
    """Creates people, who are known by their e-mail address."""

    use_in_migrations = True

    def create_user(self, email: str, password: str | None = None, **fields: object) -> "User":
        """A new person; without a password they cannot log in until they set one."""
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str, **fields: object) -> "User":
        """A new member of staff with every permission in the admin."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)


class User(AbstractUser):
    """A person; logs in with their e-mail address."""

    username = None  # type: ignore[assignment]
    email = models.EmailField(unique=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects = UserManager()  # type: ignore[assignment,misc]

    def __str__(self) -> str:
        return self.email


class Organization(models.Model):
    """A customer: owns credits, workspaces and members. See orgs/suspension.py."""

    public_id = models.CharField(max_length=32, unique=True, default=organization_id)
    name = models.CharField(max_length=120)
    slug = models.SlugField(max_length=60, unique=True)
    suspended_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="From then on its AI calls and deploys are refused; its sites stay. "
        "Empty this and the reason to lift the suspension.",
    )
    suspension_reason = models.CharField(
        max_length=300, blank=True, help_text="Its members read this in the console."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("name",)
        constraints: ClassVar = [
            models.CheckConstraint(
                name="orgs_suspension_has_time_and_reason",
                condition=models.Q(suspended_at=None, suspension_reason="")
                | (models.Q(suspended_at__isnull=False) & ~models.Q(suspension_reason="")),
                violation_error_message="A suspension has a time and a reason; without one, "
                "leave both empty.",
            )
        ]

    def __str__(self) -> str:
        # Two may have the same name, and staff choose one of them to give money to.
        return f"{self.name} ({self.slug})"

    def is_suspended(self, *, at: datetime) -> bool:
        """Whether staff have stopped its AI calls and deploys at `at`."""
        return self.suspended_at is not None and self.suspended_at <= at


class Workspace(models.Model):
    """A place to deploy from; has tokens for agents and one default deployment."""

    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="workspaces"
    )
    public_id = models.CharField(max_length=32, unique=True, default=workspace_id)
    name = models.CharField(max_length=120)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ("name",)
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "name"], name="orgs_workspace_name_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.organization.name} / {self.name}"


class Membership(models.Model):
    """A person's role in an organization."""

    class Role(models.TextChoices):
        OWNER = "OWNER", "Owner"
        ADMIN = "ADMIN", "Admin"
        MEMBER = "MEMBER", "Member"
        BILLING = "BILLING", "Billing"
        VIEWER = "VIEWER", "Viewer"

    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="memberships"
    )
    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role, default=Role.MEMBER)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "user"], name="orgs_membership_once_per_person"
            )
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.organization} ({self.get_role_display()})"


class WorkspaceToken(models.Model):
    """What an agent or CLI authenticates with. Only its digest is kept; shown once at creation."""

    workspace = models.ForeignKey(Workspace, on_delete=models.CASCADE, related_name="tokens")
    public_id = models.CharField(max_length=32, unique=True, default=token_id)
    name = models.CharField(max_length=120)
    prefix = models.CharField(max_length=16, editable=False)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return f"{self.prefix}… ({self.name})"

    def is_usable(self, *, at: datetime) -> bool:
        """Whether the token is neither revoked nor expired at `at`."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > at)


class IdempotentRequest(models.Model):
    """A request that came with an Idempotency-Key: being carried out, or with its answer.

    See orgs/idempotency.py. The key itself is not kept, only its digest.
    """

    organization = models.ForeignKey(
        Organization, on_delete=models.CASCADE, related_name="idempotent_requests"
    )
    scope = models.CharField(max_length=60)
    key_digest = models.CharField(max_length=64)
    fingerprint = models.CharField(max_length=64)
    # Who carries it out, and until when nobody else may.
    lease = models.UUIDField()
    leased_until = models.DateTimeField()
    # What carrying it out is known by elsewhere: whoever claims it again can ask what became of it.
    reference = models.CharField(max_length=64, blank=True, default="")
    # The HTTP status of the answer; null while there is none.
    status = models.PositiveSmallIntegerField(null=True)
    answer_sealed = models.TextField(blank=True, editable=False)
    created_at = models.DateTimeField(editable=False)
    expires_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "scope", "key_digest"], name="orgs_idempotent_request_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.scope} {self.key_digest[:12]}"


class WebhookEndpoint(models.Model):
    """Where an organization hears of events; one each. Its secret is only ever shown once."""

    organization = models.OneToOneField(
        Organization, on_delete=models.CASCADE, related_name="webhook_endpoint"
    )
    public_id = models.CharField(max_length=32, unique=True, default=endpoint_id)
    url = models.CharField(max_length=500)
    secret_sealed = models.TextField(editable=False)
    # After a rotation both sign for a while, so that no event is missed.
    old_secret_sealed = models.TextField(blank=True, editable=False)
    old_secret_until = models.DateTimeField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"{self.public_id} of {self.organization}"


class WebhookDelivery(models.Model):
    """One event on its way to an endpoint; due again at `next_attempt_at`, None when it ended."""

    endpoint = models.ForeignKey(
        WebhookEndpoint, on_delete=models.CASCADE, related_name="deliveries"
    )
    event_id = models.CharField(max_length=80)
    kind = models.CharField(max_length=40)
    body = models.TextField()
    created_at = models.DateTimeField()
    attempts = models.PositiveSmallIntegerField(default=0)
    attempted_at = models.DateTimeField(null=True, blank=True)
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    delivered_at = models.DateTimeField(null=True, blank=True)
    http_status = models.PositiveSmallIntegerField(null=True, blank=True)
    problem = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "webhook deliveries"
        indexes: ClassVar = [
            models.Index(
                fields=["next_attempt_at"],
                name="orgs_delivery_due",
                condition=models.Q(next_attempt_at__isnull=False),
            )
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["endpoint", "event_id"], name="orgs_delivery_once_per_event"
            ),
            models.CheckConstraint(
                name="orgs_delivery_ends_when_heard",
                condition=models.Q(delivered_at=None) | models.Q(next_attempt_at=None),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.event_id}"
