"""Authentication of the data API: `Authorization: Bearer wst_...`, and nothing else.

Session cookies are not looked at, so these endpoints need no CSRF token.
"""

from typing import Any

from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.request import Request

from orgs import suspension, tokens
from orgs.models import WorkspaceToken


class WorkspaceCaller:
    """Who speaks on a data API call: a workspace, through one of its tokens."""

    is_authenticated = True

    def __init__(self, token: WorkspaceToken) -> None:
        self.token = token
        self.workspace = token.workspace
        self.organization = token.workspace.organization


class WorkspaceTokenAuthentication(BaseAuthentication):
    """Turns a bearer token into a WorkspaceCaller, or refuses with 401."""

    def authenticate(self, request: Request) -> tuple[WorkspaceCaller, WorkspaceToken]:
        """The caller. Raises AuthenticationFailed; the text never says which check failed.

        Raises PermissionDenied (403) for a suspended organization: to whoever has its token alone.
        """
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise AuthenticationFailed(
                "Send your workspace token as 'Authorization: Bearer wst_...'.", "missing_token"
            )
        try:
            token = tokens.verify(secret.strip(), at=timezone.now())
        except tokens.UnableToAuthenticate:
            raise AuthenticationFailed(
                "This workspace token is not valid. Create one in the console under Tokens.",
                "invalid_token",
            ) from None
        if token.workspace.organization.is_suspended(at=timezone.now()):
            raise PermissionDenied(suspension.explain_to_caller(), "organization_suspended")
        return WorkspaceCaller(token), token

    def authenticate_header(self, request: Request) -> str:
        """Makes DRF answer 401 rather than 403."""
        return "Bearer"


class WorkspaceTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Describes the token in the OpenAPI page."""

    target_class = "orgs.authentication.WorkspaceTokenAuthentication"
    name = "workspaceToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        """A plain bearer token."""
        return {"type": "http", "scheme": "bearer"}
