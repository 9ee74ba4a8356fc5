"""What every call of the data API shares: reading its body, and whose token it carries.

The calls themselves belong to the apps above. All are POST with a JSON body and a workspace token.
"""

import json
from datetime import timedelta
from typing import Any, cast

from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework import exceptions
from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from orgs import idempotency
from orgs.authentication import WorkspaceCaller
from orgs.errors import DataApiError
from orgs.models import Workspace

IDEMPOTENCY_HEADER = "Idempotency-Key"
# No call of the data API takes nearly as long.
LEASE = timedelta(minutes=10)
# For the schema of calls that take it.
IDEMPOTENCY_PARAMETER = OpenApiParameter(
    IDEMPOTENCY_HEADER,
    location=OpenApiParameter.HEADER,
    description="Of your own making; the same call again within a day gets the same answer.",
)
REQUIRED_IDEMPOTENCY_PARAMETER = OpenApiParameter(
    IDEMPOTENCY_HEADER,
    location=OpenApiParameter.HEADER,
    description="Of your own making; the same purchase again within a day is charged once.",
    required=True,
)


REFUSAL = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": {"type": "string", "description": "Stable, for programs."},
                "message": {"type": "string", "description": "Says what to do."},
                "field": {
                    "type": "string",
                    "nullable": True,
                    "description": "With `invalid_request`: which part of the body.",
                },
            },
        }
    },
}
REFUSALS = {
    "400": "The body or a header is not what the call takes: `invalid_request`, `invalid_json`.",
    "401": "No workspace token, or none that works: `missing_token`, `invalid_token`.",
    "404": "What the body names is not there, or not yours: `deployment_not_found`.",
    "default": "Any other refusal. After 429 and 503, wait as `Retry-After` says.",
}


def document_refusals(
    result: dict[str, Any], generator: Any, request: Any, public: bool
) -> dict[str, Any]:
    """drf-spectacular's hook: every call says how it refuses."""
    result["components"]["schemas"]["Refusal"] = REFUSAL
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    for calls in result["paths"].values():
        for call in calls.values():
            for status, description in REFUSALS.items():
                call["responses"][status] = {"description": description, "content": content}
    return result


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


class OnceView(DataApiCall):
    """Base of calls that move money or must otherwise not happen twice.

    With an `Idempotency-Key`, the same request again within a day gets the same answer and the
    header `Idempotent-Replayed: true`; a refusal is not kept. Keys are the workspace's own.
    """

    def post_once(self, request: Request) -> Response:
        """What the call does; at most once for a key."""
        raise NotImplementedError

    def is_final(self, response: Response) -> bool:
        """Whether this is the answer for good; what is not is carried out again when repeated."""
        return True

    def post(self, request: Request) -> Response | HttpResponse:
        """The call, or what it was answered before."""
        key = request.headers.get(IDEMPOTENCY_HEADER)
        if key is None:
            return self.post_once(request)
        workspace = workspace_of(request)
        found = self._claim(request, workspace, key)
        if isinstance(found, idempotency.Answer):
            return HttpResponse(
                found.body,
                status=found.status,
                content_type="application/json",
                headers={"Idempotent-Replayed": "true", "Cache-Control": "no-store"},
            )
        try:
            response = self.post_once(request)
            body = JSONRenderer().render(response.data)
        except BaseException:
            idempotency.release(found)
            raise
        if self.is_final(response):
            idempotency.keep(found, idempotency.Answer(response.status_code, body))
        else:
            idempotency.release(found)
        return response

    def _claim(
        self, request: Request, workspace: Workspace, key: str
    ) -> idempotency.Claim | idempotency.Answer:
        said = json.dumps(request.data, sort_keys=True).encode()
        try:
            return idempotency.claim(
                workspace.organization_id,
                f"workspace:{workspace.pk}",
                key,
                idempotency.fingerprint(request.path.encode(), said),
                lease=LEASE,
                at=timezone.now(),
            )
        except idempotency.UnableToClaim as error:
            raise _refused(error) from None


def _refused(error: idempotency.UnableToClaim) -> DataApiError:
    match error:
        case idempotency.KeyReused():
            return DataApiError("idempotency_key_reused", str(error), status_code=422)
        case idempotency.StillInProgress():
            refusal = DataApiError("idempotency_in_progress", str(error), status_code=409)
            refusal.wait = error.wait_seconds  # DRF's word for Retry-After
            return refusal
        case idempotency.AnswerNotKept():
            return DataApiError("idempotent_answer_not_kept", str(error), status_code=409)
    return DataApiError("idempotency_key_invalid", str(error))


def workspace_of(request: Request) -> Workspace:
    """The workspace whose token the request carries."""
    return cast(WorkspaceCaller, request.user).workspace
