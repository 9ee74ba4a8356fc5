"""How people get accounts: by invitation of an organization, not by signing up themselves."""

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """Closes sign-up; log-in and password reset stay allauth's."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Always closed: owners add members in the console, staff the first people in the admin."""
        return False
