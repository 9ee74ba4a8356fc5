"""Staff's view of what is between serving processes and the books."""

from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from unfold.decorators import action

from billing import dead_letters, money
from billing.admin.ledger import ReadOnlyAdmin, ReasonedForm, show_form
from billing.models import DeadLetter, Journal, Lease


@admin.register(Journal)
class JournalAdmin(ReadOnlyAdmin):
    """One row for each serving process there was; open ones serve now."""

    list_display = ("name", "host", "position", "created_at", "renewed_at", "closed_at")
    list_filter = (("closed_at", admin.EmptyFieldListFilter), "host")
    search_fields = ("name", "host")
    date_hierarchy = "created_at"


@admin.register(Lease)
class LeaseAdmin(ReadOnlyAdmin):
    """Credit in the hands of serving processes."""

    list_display = ("organization", "journal", "outstanding", "used")
    list_select_related = ("organization",)
    search_fields = ("organization__slug", "journal__name")
    fields = ("organization", "journal", "granted", "returned", "used", "outstanding")

    @admin.display(description="Granted", ordering="granted_nanos")
    def granted(self, lease: Lease) -> str:
        """Dollars, since the process began."""
        return money.format_dollars(lease.granted_nanos)

    @admin.display(description="Returned", ordering="returned_nanos")
    def returned(self, lease: Lease) -> str:
        """Dollars, since the process began."""
        return money.format_dollars(lease.returned_nanos)

    @admin.display(description="Used", ordering="used_nanos")
    def used(self, lease: Lease) -> str:
        """Dollars booked, since the process began."""
        return money.format_dollars(lease.used_nanos)

    @admin.display(description="Outstanding")
    def outstanding(self, lease: Lease) -> str:
        """Dollars that the process may still spend."""
        return money.format_dollars(lease.outstanding_nanos)


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnlyAdmin):
    """Records of journals that could not be booked: put right by a correction, then resolved."""

    actions_detail = ("resolve",)
    list_display = ("journal", "position", "reason", "cost", "organization_id", "resolved_at")
    list_filter = (("resolved_at", admin.EmptyFieldListFilter),)
    search_fields = ("journal__name", "reason")
    fields = (
        "journal", "position", "reason", "cost", "organization_id", "bytes", "created_at",
        "resolved_at", "resolution",
    )  # fmt: skip

    def has_resolve_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        """Staff who may add transfers."""
        return bool(request.user.has_perm("billing.add_transfer"))

    @action(  # type: ignore[untyped-decorator]
        description="Mark as resolved", url_path="resolve", permissions=["resolve"]
    )
    def resolve(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """A form for what was done about it."""
        letter = get_object_or_404(DeadLetter, pk=object_id)
        form = ReasonedForm(request.POST or None, initial={"idempotency_key": "unused"})
        if request.method == "POST" and form.is_valid():
            resolution = form.cleaned_data["reason"]
            try:
                dead_letters.resolve(letter, resolution=resolution, at=timezone.now())
            except dead_letters.AlreadyResolved:
                form.add_error(None, "Somebody has resolved it already.")
            else:
                self.log_change(request, letter, f"Resolved: {resolution}")
                self.message_user(request, "Marked as resolved.", messages.SUCCESS)
                return redirect("admin:billing_deadletter_change", object_id)
        intro = (
            f"{money.format_dollars(letter.cost_nanos)} of it are not booked. Correct the "
            "organization's credit first if it owes or is owed something, then say here what was "
            "done."
        )
        return show_form(self, request, form, title="Mark as resolved", intro=intro)

    @admin.display(description="Cost", ordering="cost_nanos")
    def cost(self, letter: DeadLetter) -> str:
        """Dollars, as far as it could be read."""
        return money.format_dollars(letter.cost_nanos)

    @admin.display(description="Bytes")
    def bytes(self, letter: DeadLetter) -> str:
        """What was in the journal, in hexadecimal."""
        return bytes(letter.raw).hex(" ")
