"""Every way the AI API says no: one exception class and one constructor per row of the table.

Bodies follow OpenAI's shape, `{"error": {message, type, param, code}}`, all four keys always, so
that clients' typed exceptions work (openai-python maps status to class: 401 AuthenticationError,
403 PermissionDeniedError, 404 NotFoundError, 429 RateLimitError, >=500 InternalServerError).
Pure; must not know HTTP servers.
"""

from collections.abc import Mapping
from typing import Any

INVALID = "invalid_request_error"
SERVER = "server_error"


class Refusal(Exception):
    """A refusal as the client will see it. `headers` are extra response headers."""

    def __init__(
        self,
        status: int,
        error_type: str,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def reworded(self, names: Mapping[str, str]) -> "Refusal":
        """The same with parameters by these names, in `param` and where the message quotes it."""
        name = names.get(self.param or "")
        if name is None:
            return self
        message = self.message
        for quote in "'`":
            message = message.replace(f"{quote}{self.param}{quote}", f"{quote}{name}{quote}")
        return Refusal(
            self.status,
            self.error_type,
            message,
            code=self.code,
            param=name,
            headers=self.headers,
            extra=self.extra,
        )

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {
            "error": {
                "message": self.message,
                "type": self.error_type,
                "param": self.param,
                "code": self.code,
                **self.extra,
            }
        }


# --- who is asking ---------------------------------------------------------------------------


def missing_key() -> Refusal:
    """No key at all."""
    return Refusal(
        401,
        INVALID,
        "You didn't provide an API key. You need to provide your API key in an Authorization "
        "header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY). Your deployment gets its "
        "key from /api/data/aigateway/provision.",
        headers={"www-authenticate": "Bearer"},
    )


def wrong_key(key: str) -> Refusal:
    """Malformed, unknown, revoked or expired key, dead deployment: byte-identical on purpose."""
    return Refusal(
        401,
        INVALID,
        f"Incorrect API key provided: {mask_key(key)}. Provision a key for your deployment with "
        "/api/data/aigateway/provision.",
        code="invalid_api_key",
        headers={"www-authenticate": "Bearer"},
    )


def mask_key(key: str) -> str:
    """The first eight and last four characters at most, so that the owner recognises the key."""
    printable = "".join(character for character in key[:512] if character.isprintable())
    return f"{printable[:8]}****{printable[-4:]}" if len(printable) >= 20 else "****"


def key_used_from_browser() -> Refusal:
    """An `Origin` header came with a key: a browser holds a server's secret."""
    return Refusal(
        403,
        INVALID,
        "This key was used from a browser. Gateway keys are for server code only: call the "
        "gateway from your app's function, and rotate this key.",
        code="key_used_from_browser",
    )


def organization_suspended(message: str) -> Refusal:
    """Staff have stopped the organization; `message` says whom to contact."""
    return Refusal(403, INVALID, message, code="organization_suspended")


def key_in_url() -> Refusal:
    """A key in the query string ends up in logs and histories."""
    return Refusal(
        400,
        INVALID,
        "Send the key in a header (x-goog-api-key or Authorization), never in the URL: URLs are "
        "logged. If this was a real key, rotate it.",
        code="key_in_url",
    )


# --- what is asked ---------------------------------------------------------------------------


def unknown_path(method: str, path: str) -> Refusal:
    """No such endpoint."""
    return Refusal(404, INVALID, f"Invalid URL ({method} {path})")


def wrong_method(allowed: str) -> Refusal:
    """The path exists, the method does not."""
    return Refusal(
        405,
        INVALID,
        f"Only {allowed} requests are accepted.",
        code="method_not_supported",
        headers={"allow": allowed},
    )


def body_too_large(limit: int, read: int) -> Refusal:
    """More body bytes than accepted; the connection is closed."""
    return Refusal(
        413,
        INVALID,
        f"Maximum content size limit ({limit}) exceeded ({read} bytes read)",
        code="request_too_large",
        headers={"connection": "close"},
    )


def encoded_body() -> Refusal:
    """A compressed request body: refused, because its real size is unknown."""
    return Refusal(
        415, INVALID, "Send the body without Content-Encoding.", code="unsupported_encoding"
    )


def slow_body() -> Refusal:
    """The body stopped arriving."""
    return Refusal(
        408,
        INVALID,
        "The request body did not arrive in time.",
        code="request_timeout",
        headers={"connection": "close"},
    )


def invalid_json() -> Refusal:
    """The body is no JSON object."""
    return Refusal(
        400,
        INVALID,
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't "
        "using your HTTP library correctly. The gateway expects a JSON object as the body.)",
    )


def missing_parameter(name: str) -> Refusal:
    """A required parameter is absent; `name` is a dotted path."""
    return Refusal(
        400,
        INVALID,
        f"Missing required parameter: '{name}'.",
        code="missing_required_parameter",
        param=name,
    )


def wrong_type(name: str, expected: str, value: object) -> Refusal:
    """A parameter has the wrong JSON type."""
    return Refusal(
        400,
        INVALID,
        f"Invalid type for '{name}': expected {expected}, but got {describe_type(value)} instead.",
        code="invalid_type",
        param=name,
    )


def unsupported_value(name: str, message: str) -> Refusal:
    """A parameter's value is understood and cannot be served."""
    return Refusal(400, INVALID, message, code="unsupported_value", param=name)


def invalid_field(path: str, problem: str, *, code: str = "unsupported_value") -> Refusal:
    """A field is wrong, in Anthropic's words: its dotted path, then what is wrong with it."""
    return Refusal(400, INVALID, f"{path}: {problem}", code=code, param=path)


def describe_type(value: object) -> str:
    """The JSON type of `value` in words, with an article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {int: "an integer", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def unknown_model(model: str) -> Refusal:
    """No route has this name (chat completions: 404)."""
    return Refusal(
        404,
        INVALID,
        f"The model `{model[:120]}` does not exist or you do not have access to it.",
        code="model_not_found",
    )


def unknown_model_of_response(model: str) -> Refusal:
    """No route has this name, on Responses: OpenAI answers 400 there."""
    return Refusal(
        400,
        INVALID,
        f"The requested model '{model[:120]}' does not exist.",
        code="model_not_found",
        param="model",
    )


def model_not_allowed(model: str, scope: str) -> Refusal:
    """The model is there, but this scope's calls are confined to others."""
    return Refusal(
        403,
        INVALID,
        f"The model `{model[:120]}` is not among those that this {scope} may use. "
        "GET /api/ai/v1/models lists the models of your key; they are chosen in the console under "
        "Limits.",
        code="model_not_allowed",
        param="model",
        extra={"scope": scope},
    )


def provider_not_configured(model: str, provider: str, label: str) -> Refusal:
    """The model is known, but nobody gave us a credential for its provider."""
    return Refusal(
        503,
        SERVER,
        f"The model `{model}` is served by {label}, which has no credential yet. Staff can add "
        f"one in the admin under Gateway > Provider credentials, or set "
        f"PROVIDER_{provider.upper()}_API_KEY and restart.",
        code="provider_not_configured",
        headers={"x-should-retry": "false"},
    )


def endpoint_not_offered(model: str, endpoint: str, offered: str) -> Refusal:
    """The model exists but lives on another endpoint."""
    return Refusal(
        400,
        INVALID,
        f"The model `{model}` is not offered on {endpoint}: its provider serves it on {offered}.",
        code="unsupported_endpoint",
        param="model",
    )


def embeddings_elsewhere() -> Refusal:
    """Gemini's methods that embed: only OpenAI's wire has embeddings here."""
    return Refusal(
        400,
        INVALID,
        "Embeddings are not offered on this wire: POST them in OpenAI's shape to "
        "/api/ai/v1/embeddings, with a model of /api/ai/v1/models that can embed.",
        code="unsupported_endpoint",
    )


def model_without_price(model: str) -> Refusal:
    """A call that cannot be billed is not made."""
    return Refusal(
        503,
        SERVER,
        f"The model `{model}` has no price yet, so it cannot be billed. Staff can add one with "
        "`manage.py update_prices`.",
        code="model_not_priced",
        headers={"x-should-retry": "false"},
    )


# --- limits ----------------------------------------------------------------------------------


def rate_limited(
    error_type: str, what: str, facts: Mapping[str, Any], headers: Mapping[str, str], wait: str
) -> Refusal:
    """A limit of `what` ("requests per minute of this key") is reached; `wait` says how long.

    `error_type` is requests or tokens; `facts` are scope, limit, used and requested.
    """
    return Refusal(
        429,
        error_type,
        f"Rate limit reached for {what}: {_numbers(facts)} Please try again in {wait}.",
        code="rate_limit_exceeded",
        headers=headers,
        extra=facts,
    )


def too_large_for_limit(
    error_type: str, what: str, facts: Mapping[str, Any], headers: Mapping[str, str]
) -> Refusal:
    """The call alone is more than a limit allows: waiting would not help."""
    return Refusal(
        429,
        error_type,
        f"Request too large for {what}: {_numbers(facts)} Shorten the input or ask for fewer "
        "output tokens.",
        code="rate_limit_exceeded",
        headers={**headers, "x-should-retry": "false"},
        extra=facts,
    )


def budget_spent(what: str, facts: Mapping[str, Any]) -> Refusal:
    """A budget of money ("daily budget of this key") is used up until `resets_at`.

    `facts` are scope, period, limit, used, requested (dollars as text), resets_at, limits_url.
    """
    return Refusal(
        429,
        "insufficient_quota",
        f"You exceeded your current quota, please check your plan and billing details. The {what} "
        f"is used up: {_amounts(facts)}",
        code="insufficient_quota",
        headers={"x-should-retry": "false"},
        extra=facts,
    )


def budget_too_small(what: str, facts: Mapping[str, Any]) -> Refusal:
    """What is left of a budget does not cover the most this call can cost."""
    return Refusal(
        429,
        "insufficient_quota",
        f"The rest of the {what} does not cover what this call may cost: {_amounts(facts)} Ask for "
        "fewer output tokens, shorten the input, or have the budget raised.",
        code="insufficient_quota",
        headers={"x-should-retry": "false"},
        extra=facts,
    )


def budget_reserved(what: str, facts: Mapping[str, Any]) -> Refusal:
    """A budget would cover the call, but calls in flight may still need it: retrying may help."""
    return Refusal(
        429,
        "insufficient_quota",
        f"Calls in flight hold the rest of the {what}: {_amounts(facts)} Retry when they have "
        "ended.",
        code="budget_reserved",
        headers={"retry-after": "2", "x-should-retry": "true"},
        extra=facts,
    )


def _amounts(facts: Mapping[str, Any]) -> str:
    template = "Limit {limit}, Used {used}, Requested up to {requested}. It resets at {resets_at}."
    return template.format_map(facts)


def _numbers(facts: Mapping[str, Any]) -> str:
    return "Limit {limit}, Used {used}, Requested {requested}.".format_map(facts)


# --- credit ----------------------------------------------------------------------------------


def out_of_credit(top_up_url: str) -> Refusal:
    """The organization's balance does not cover the call."""
    return Refusal(
        429,
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details.",
        code="insufficient_quota",
        headers={"x-should-retry": "false"},
        extra={"scope": "organization", "top_up_url": top_up_url},
    )


def credit_reserved(top_up_url: str) -> Refusal:
    """The balance would cover the call, but calls in flight hold it: retrying may help."""
    return Refusal(
        429,
        "insufficient_quota",
        "Calls in flight hold your remaining credit. Retry when they have ended, lower "
        "max_completion_tokens, or top up.",
        code="credit_reserved",
        headers={"retry-after": "2", "x-should-retry": "true"},
        extra={"scope": "organization", "top_up_url": top_up_url},
    )


def billing_unavailable() -> Refusal:
    """The ledger cannot be reached: fail closed."""
    return Refusal(
        503,
        SERVER,
        "Billing is not available right now, so no call can be made. Please retry.",
        code="service_unavailable",
        headers={"retry-after": "1"},
    )


def settlement_unconfirmed() -> Refusal:
    """The provider answered; that the call is recorded could not be made sure of in time.

    Its end is withheld, and no SDK should ask again by itself: what was sent may be billed.
    """
    return Refusal(
        503,
        SERVER,
        "The model answered, but this call could not be recorded durably in time, so the end of "
        "its answer is withheld. What was sent of it may be billed.",
        code="settlement_unconfirmed",
        headers={"x-should-retry": "false"},
    )


def service_unavailable() -> Refusal:
    """Keys cannot be checked, or the process is shutting down."""
    return Refusal(
        503,
        SERVER,
        "The gateway is not ready to serve this request. Please retry.",
        code="service_unavailable",
        headers={"retry-after": "1"},
    )


# --- the provider ----------------------------------------------------------------------------


def upstream_failed(*, retryable: bool) -> Refusal:
    """5xx, refused connection, nonsense, or our credential was rejected: their text stays here."""
    return Refusal(
        502,
        SERVER,
        "The model's provider failed to answer this request.",
        code="upstream_error",
        headers={"x-should-retry": "true" if retryable else "false"},
    )


def upstream_overloaded(retry_after_seconds: int) -> Refusal:
    """The provider limits or sheds our account."""
    return Refusal(
        503,
        SERVER,
        "The model's provider is overloaded. Please retry.",
        code="upstream_overloaded",
        headers={"retry-after": str(retry_after_seconds)},
    )


def upstream_timed_out(*, is_dispatched: bool = True) -> Refusal:
    """The provider took too long.

    Once the request was sent it is not to be retried: the provider may bill the call it is making.
    """
    return Refusal(
        504,
        SERVER,
        "The model's provider did not answer in time.",
        code="upstream_timeout",
        headers={"x-should-retry": "false" if is_dispatched else "true"},
    )


def request_refused_upstream(message: str, code: str | None, param: str | None) -> Refusal:
    """The provider found the user's request wrong; `message` must already be scrubbed."""
    return Refusal(400, INVALID, message, code=code, param=param)


def internal(request_id: str) -> Refusal:
    """A bug of ours."""
    return Refusal(
        500,
        SERVER,
        "The server had an error while processing your request. Please retry, and name this "
        f"request if it keeps happening. (request id {request_id})",
    )


# --- state -----------------------------------------------------------------------------------


def previous_response_not_found(response_id: str) -> Refusal:
    """`previous_response_id` names nothing that is kept for this organization."""
    return Refusal(
        404,
        INVALID,
        f"Previous response with id '{response_id[:120]}' not found.",
        code="previous_response_not_found",
        param="previous_response_id",
    )


def response_not_found(response_id: str) -> Refusal:
    """No such response is kept for this organization."""
    return Refusal(404, INVALID, f"Response with id '{response_id[:120]}' not found.")


def item_not_found(item_id: str) -> Refusal:
    """An `item_reference` names nothing that is kept for this organization."""
    return Refusal(
        404,
        INVALID,
        f"Item with id '{item_id[:120]}' not found. Items are not persisted when `store` is set "
        "to false. Send the item itself, or let the response that made it be stored.",
        param="input",
    )


# --- the Responses wire ----------------------------------------------------------------------


def unsupported_parameter(name: str, message: str) -> Refusal:
    """A parameter that no provider behind the gateway can be given."""
    return Refusal(400, INVALID, message, code="unsupported_parameter", param=name)


# --- repeated calls --------------------------------------------------------------------------


def stream_with_idempotency_key() -> Refusal:
    """A stream is not kept."""
    return Refusal(
        400,
        INVALID,
        "A streaming call cannot be replayed. Leave out the Idempotency-Key header, or ask for "
        "the whole answer at once.",
        code="idempotency_not_supported",
        param="Idempotency-Key",
    )


def idempotency_key_invalid(message: str) -> Refusal:
    """Empty, too long, or with characters no header should have."""
    return Refusal(400, INVALID, message, code="idempotency_key_invalid", param="Idempotency-Key")


def idempotency_key_reused(message: str) -> Refusal:
    """The key named another request before."""
    return Refusal(422, INVALID, message, code="idempotency_key_reused", param="Idempotency-Key")


def idempotency_in_progress(message: str, retry_after_seconds: int) -> Refusal:
    """The first attempt runs: its answer can be had later."""
    return Refusal(
        409,
        INVALID,
        message,
        code="idempotency_in_progress",
        param="Idempotency-Key",
        headers={"retry-after": str(retry_after_seconds), "x-should-retry": "true"},
    )


def idempotent_answer_not_kept(message: str) -> Refusal:
    """Carried out and billed, but there is nothing to answer with."""
    return Refusal(
        409,
        INVALID,
        message,
        code="idempotent_answer_not_kept",
        param="Idempotency-Key",
        headers={"x-should-retry": "false"},
    )


def idempotent_answer_lost(request_id: str) -> Refusal:
    """Made and billed by a process that died before it could keep the answer."""
    return Refusal(
        409,
        INVALID,
        f"The first call with this Idempotency-Key (request id {request_id}) was made and billed, "
        "but its answer was lost when a process of the gateway ended. Use a new key to make the "
        "call again; it is billed again then.",
        code="idempotent_answer_lost",
        param="Idempotency-Key",
        headers={"x-should-retry": "false"},
        extra={"request_id": request_id},
    )
