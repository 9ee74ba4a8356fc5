"""Deployments and what they consist of.

A deployment is an address (`<prefix>-<10 hex>`) with an environment. A release is an immutable,
checked unpacking of one bundle plus an environment snapshot; the deployment points at the active
one, and activating or rolling back is moving that pointer. Must know nothing of gateway keys: a
key dies with its deployment because authentication asks whether the deployment is alive.
"""

from typing import ClassVar

from django.db import models
from django.db.models import Q
from django.utils import timezone

from orgs import identifiers
from orgs.models import Workspace


def release_id() -> str:
    """Default of `Release.public_id`."""
    return identifiers.public_id("rel")


class Deployment(models.Model):
    """An app at its own address. Soft-deleted: billing records outlive it."""

    workspace = models.ForeignKey(Workspace, on_delete=models.PROTECT, related_name="deployments")
    deploy_id = models.CharField(max_length=63, unique=True)
    prefix = models.CharField(max_length=52)
    is_default = models.BooleanField(default=False)
    active_release = models.ForeignKey(
        "Release", on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    deployed_at = models.DateTimeField(null=True, blank=True, editable=False)
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created_at",)
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["workspace", "prefix"],
                name="deployments_prefix_once_per_workspace",
                condition=Q(deleted_at=None),
            ),
            models.UniqueConstraint(
                fields=["workspace"],
                name="deployments_one_default_per_workspace",
                condition=Q(is_default=True, deleted_at=None),
            ),
        ]

    def __str__(self) -> str:
        return self.deploy_id


class Upload(models.Model):
    """A bundle expected or received under a presigned URL; each URL works once."""

    class Status(models.TextChoices):
        ISSUED = "ISSUED", "Waiting for the file"
        RECEIVED = "RECEIVED", "Received"
        CONSUMED = "CONSUMED", "Deployed"

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="uploads")
    nonce = models.CharField(max_length=43, unique=True)
    status = models.CharField(max_length=16, choices=Status, default=Status.ISSUED)
    sha256 = models.CharField(max_length=64, blank=True)
    size_bytes = models.BigIntegerField(default=0)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    received_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.deployment} {self.get_status_display()}"


class Release(models.Model):
    """One immutable version of a deployment."""

    class Status(models.TextChoices):
        PENDING = "PENDING", "Pending"
        ACTIVE = "ACTIVE", "Active"
        SUPERSEDED = "SUPERSEDED", "Superseded"
        FAILED = "FAILED", "Failed"

    class Mode(models.TextChoices):
        STATIC = "static", "Static"
        SSR = "ssr", "Functions"

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="releases")
    public_id = models.CharField(max_length=32, unique=True, default=release_id)
    bundle_sha256 = models.CharField(max_length=64)
    status = models.CharField(max_length=16, choices=Status, default=Status.PENDING)
    mode = models.CharField(max_length=8, choices=Mode, default=Mode.STATIC)
    # What deployments/layout.py read from the bundle: routes, static files, functions.
    manifest = models.JSONField(default=dict)
    # The final environment at the time of the deploy, encrypted as one JSON text.
    environment_sealed = models.TextField(blank=True)
    failure = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    activated_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return self.public_id


class EnvironmentVariable(models.Model):
    """A variable of the deployment, for its next deploy. The value is encrypted at rest."""

    class Source(models.TextChoices):
        GATEWAY = "GATEWAY", "Injected at provision"
        USER = "USER", "Set by update-env"

    deployment = models.ForeignKey(
        Deployment, on_delete=models.CASCADE, related_name="environment_variables"
    )
    name = models.CharField(max_length=128)
    source = models.CharField(max_length=8, choices=Source)
    value_sealed = models.TextField()
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("name", "source")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["deployment", "name", "source"], name="deployments_variable_once_per_source"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.deployment}"


class LogEntry(models.Model):
    """A line a function printed, or what the platform has to say about one of its runs."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="log_entries")
    function_name = models.CharField(max_length=200, blank=True)
    request_id = models.CharField(max_length=64, blank=True)
    logged_at = models.DateTimeField()
    message = models.TextField()

    class Meta:
        ordering = ("id",)
        indexes: ClassVar = [
            models.Index(fields=["deployment", "logged_at"], name="deployments_log_by_time"),
            models.Index(fields=["deployment", "id"], name="deployments_log_by_id"),
            models.Index(
                fields=["deployment", "request_id", "id"], name="deployments_log_by_request"
            ),
        ]

    def __str__(self) -> str:
        return self.message[:80]


class LogStream(models.Model):
    """A deployment's log as a whole: how many lines it keeps.

    Whoever adds or drops lines updates this row first and so holds its lock until the commit. That
    is why a deployment's lines become visible in the order of their ids, and a reader who has seen
    one id has seen all below it.
    """

    deployment = models.OneToOneField(
        Deployment, on_delete=models.CASCADE, primary_key=True, related_name="log_stream"
    )
    line_count = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.line_count} lines of {self.deployment}"


class LogDelivery(models.Model):
    """A batch of log lines that was stored, by the id it had in the queue of output.

    Written in the transaction that stores the lines, so that a batch which is handed out again,
    because its acknowledgement got lost, is not stored twice.
    """

    batch_id = models.UUIDField(primary_key=True)
    stored_at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["stored_at"], name="deployments_delivery_by_time")
        ]

    def __str__(self) -> str:
        return str(self.batch_id)
