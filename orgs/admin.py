"""Staff's view of organizations, people and tokens.

Owns permissions and presentation; changes go through the domain functions. Must never show a
digest or a secret.
"""

from typing import Any

from allauth.account.models import EmailAddress
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from orgs import tokens
from orgs.models import (
    Membership,
    Organization,
    User,
    WebhookDelivery,
    WebhookEndpoint,
    Workspace,
    WorkspaceToken,
)

# Roles are per organization (Membership); staff have permissions of their own.
admin.site.unregister(Group)
# A person has one address, on User; allauth keeps its own list of them for verification.
admin.site.unregister(EmailAddress)


ROWS_NAMED_MAX = 20


def ask_first(
    model_admin: ModelAdmin, request: HttpRequest, queryset: QuerySet[Any], title: str, warning: str
) -> HttpResponse | None:
    """The page that asks before an action of a list is carried out; None once it was confirmed."""
    if request.POST.get("confirmed"):
        return None
    count = queryset.count()
    context = model_admin.admin_site.each_context(request) | {
        "title": title,
        "warning": warning,
        "rows": queryset[:ROWS_NAMED_MAX],
        "more": max(0, count - ROWS_NAMED_MAX),
        # What the list sent, so that the same rows are meant when this page is sent.
        "kept": [
            (name, value)
            for name in ("action", "select_across", "index", ACTION_CHECKBOX_NAME)
            for value in request.POST.getlist(name)
        ],
        "back_url": request.get_full_path(),
        "opts": model_admin.model._meta,
    }
    return render(request, "admin/orgs/confirm_action.html", context)


class NewUserForm(UserCreationForm):
    """A new person is known by e-mail address only."""

    class Meta:
        model = User
        fields = ("email",)


class MembershipInline(TabularInline):
    """Who belongs to the organization."""

    model = Membership
    extra = 0
    autocomplete_fields = ("user",)
    readonly_fields = ("created_at",)


class WorkspaceInline(TabularInline):
    """Where the organization deploys from."""

    model = Workspace
    extra = 0
    fields = ("name", "public_id", "created_at")
    readonly_fields = ("public_id", "created_at")
    show_change_link = True
    can_delete = False


@admin.register(Organization)
class OrganizationAdmin(ModelAdmin):
    """Customers, with their members and workspaces."""

    list_display = ("name", "slug", "public_id", "suspended_at", "created_at")
    list_filter = (("suspended_at", admin.EmptyFieldListFilter),)
    search_fields = ("name", "slug", "public_id", "memberships__user__email")
    prepopulated_fields = {"slug": ("name",)}
    readonly_fields = ("public_id", "created_at")
    date_hierarchy = "created_at"
    inlines = (MembershipInline, WorkspaceInline)


@admin.register(Workspace)
class WorkspaceAdmin(ModelAdmin):
    """Places to deploy from."""

    list_display = ("name", "organization", "public_id", "created_at")
    list_select_related = ("organization",)
    search_fields = ("name", "public_id", "organization__name", "organization__slug")
    autocomplete_fields = ("organization",)
    readonly_fields = ("public_id", "created_at")


@admin.register(Membership)
class MembershipAdmin(ModelAdmin):
    """Roles of people."""

    list_display = ("user", "organization", "role", "created_at")
    list_select_related = ("user", "organization")
    list_filter = ("role",)
    search_fields = ("user__email", "organization__name", "organization__slug")
    autocomplete_fields = ("user", "organization")
    readonly_fields = ("created_at",)


@admin.register(User)
class UserAdmin(DjangoUserAdmin, ModelAdmin):  # type: ignore[type-arg]
    """People. The password field shows how it is hashed, and lets staff set a new one."""

    form = UserChangeForm
    add_form = NewUserForm
    change_password_form = AdminPasswordChangeForm
    ordering = ("email",)
    list_display = ("email", "first_name", "last_name", "is_active", "is_staff", "last_login")
    list_filter = ("is_active", "is_staff", "is_superuser")
    search_fields = ("email", "first_name", "last_name")
    readonly_fields = ("last_login", "date_joined")
    date_hierarchy = "date_joined"
    filter_horizontal = ("user_permissions",)
    fieldsets = (
        (None, {"fields": ("email", "password", "first_name", "last_name")}),
        ("Permissions", {"fields": ("is_active", "is_staff", "is_superuser", "user_permissions")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = ((None, {"classes": ("wide",), "fields": ("email", "password1", "password2")}),)


@admin.register(WorkspaceToken)
class WorkspaceTokenAdmin(ModelAdmin):
    """Tokens by prefix. They are made in the console, where their secret is shown once."""

    list_display = ("prefix", "name", "workspace", "created_at", "last_used_at", "revoked_at")
    list_select_related = ("workspace__organization",)
    list_filter = (("revoked_at", admin.EmptyFieldListFilter),)
    search_fields = ("prefix", "name", "public_id", "workspace__organization__name")
    date_hierarchy = "created_at"
    fields = (
        "public_id",
        "name",
        "prefix",
        "workspace",
        "created_at",
        "last_used_at",
        "expires_at",
        "revoked_at",
    )
    readonly_fields = (
        "public_id",
        "prefix",
        "workspace",
        "created_at",
        "last_used_at",
        "revoked_at",
    )
    actions = ("revoke",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never: the admin could not show the secret of what it makes."""
        return False

    @admin.action(description="Revoke the selected tokens", permissions=["change"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        """Refuses the tokens from now on, once that was confirmed."""
        warning = "Whoever uses them is refused at once. This cannot be undone."
        if page := ask_first(self, request, queryset, "Revoke tokens", warning):
            return page
        now = timezone.now()
        for token in queryset:
            tokens.revoke(token, at=now)
        self.message_user(request, f"Revoked {len(queryset)} token(s).", messages.SUCCESS)
        return None


class ReadOnlyAdmin(ModelAdmin):
    """What organizations set and tasks write, for staff to look at."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False


@admin.register(WebhookEndpoint)
class WebhookEndpointAdmin(ReadOnlyAdmin):
    """Where organizations hear of events; without secrets."""

    list_display = ("organization", "url", "public_id", "created_at")
    list_select_related = ("organization",)
    search_fields = ("organization__name", "organization__slug", "url")
    fields = ("organization", "public_id", "url", "old_secret_until", "created_at")


@admin.register(WebhookDelivery)
class WebhookDeliveryAdmin(ReadOnlyAdmin):
    """What was posted there, and what became of it."""

    list_display = (
        "event_id",
        "endpoint",
        "kind",
        "created_at",
        "attempts",
        "http_status",
        "delivered_at",
        "next_attempt_at",
    )
    list_select_related = ("endpoint__organization",)
    list_filter = ("kind", ("delivered_at", admin.EmptyFieldListFilter))
    search_fields = ("event_id", "endpoint__organization__slug")
