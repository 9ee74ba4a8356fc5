"""What every call of the data API shares: reading its body, and whose token it carries.

The calls themselves belong to the apps above. All are POST with a JSON body and a workspace token.
"""

from typing import Any, cast

from django.http import HttpRequest
from rest_framework import exceptions
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.views import APIView

from orgs.authentication import WorkspaceCaller
from orgs.models import Workspace


class BodyParser(JSONParser):
    """JSON, where hostile nesting is the caller's error and not ours."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        """The parsed body. Raises ParseError."""
        try:
            return super().parse(*args, **kwargs)
        except RecursionError:
            raise exceptions.ParseError("It is nested too deeply.") from None


class DataApiCall(APIView):
    """Base of the data API's views."""

    parser_classes = (BodyParser,)

    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """Let DRF see a chunked body, which it takes for none: `{}` means the default site."""
        if "CONTENT_LENGTH" not in request.META:
            request.META["CONTENT_LENGTH"] = str(len(request.body))
        return super().initialize_request(request, *args, **kwargs)


def workspace_of(request: Request) -> Workspace:
    """The workspace whose token the request carries."""
    return cast(WorkspaceCaller, request.user).workspace
