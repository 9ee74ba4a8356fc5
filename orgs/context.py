"""Template context of the console: which organization the page is about, and what it offers."""

from typing import Any

from django.http import HttpRequest


def console(request: HttpRequest) -> dict[str, Any]:
    """`organization`, `membership` and `memberships` when a console view has set them."""
    membership = getattr(request, "membership", None)
    return {
        "membership": membership,
        "organization": membership.organization if membership else None,
        "memberships": getattr(request, "memberships", []),
    }
