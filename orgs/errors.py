"""How the data API refuses: one JSON shape for every error, `{"error": {code, message, ...}}`.

Any non-2xx body is shown to a person by the deploy client, so messages are short and say what to
do. Owns the shape; the refusals themselves belong to the modules that raise them.
"""

from typing import Any

from rest_framework import exceptions, status
from rest_framework.response import Response
from rest_framework.views import exception_handler


class DataApiError(exceptions.APIException):
    """A refusal with its own status and stable machine-readable code."""

    status_code: int = status.HTTP_400_BAD_REQUEST
    # Seconds after which another try makes sense: the answer's Retry-After.
    wait: int | None = None

    def __init__(self, code: str, message: str, *, status_code: int | None = None) -> None:
        self.code = code
        self.message = message
        if status_code is not None:
            self.status_code = status_code
        super().__init__(message, code)


def _first_problem(detail: Any, path: str = "") -> tuple[str, str]:
    """Dotted path and message of the first problem in a DRF error detail."""
    if isinstance(detail, dict):
        name, inner = next(iter(detail.items()))
        inner_path = path if name == "non_field_errors" else f"{path}.{name}".strip(".")
        return _first_problem(inner, inner_path)
    if isinstance(detail, list):
        # A list of items has an empty entry for each item that is fine.
        return _first_problem(next(filter(None, detail), ""), path)
    return path, str(detail)


def data_api_exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's hook: any API exception as our JSON shape; None for bugs, which become a 500."""
    response = exception_handler(error, context)
    if response is None:
        return None
    body: dict[str, Any]
    if isinstance(error, DataApiError):
        body = {"code": error.code, "message": error.message}
    elif isinstance(error, exceptions.ValidationError):
        field, problem = _first_problem(error.detail)
        message = f"{field}: {problem}" if field else problem
        body = {"code": "invalid_request", "message": message, "field": field or None}
    elif isinstance(error, exceptions.ParseError):
        body = {"code": "invalid_json", "message": f"The body is not valid JSON. {error.detail}"}
    elif isinstance(error, exceptions.UnsupportedMediaType):
        # What `curl -d` does by itself: it calls the body a form.
        message = "Send the body as JSON, with the header Content-Type: application/json."
        body = {"code": "unsupported_media_type", "message": message}
    elif isinstance(error, exceptions.MethodNotAllowed):
        message = "Send it with POST, as all calls of the data API."
        body = {"code": "method_not_allowed", "message": message}
    elif response.status_code == status.HTTP_404_NOT_FOUND:
        body = {"code": "not_found", "message": "Not found."}
    else:
        codes = getattr(error, "get_codes", lambda: "error")()
        body = {
            "code": codes if isinstance(codes, str) else "error",
            "message": str(getattr(error, "detail", error)),
        }
    response.data = {"error": body}
    return response
