"""The address Stripe sends its messages to.

Refuses before it reads: no secret, too large, a wrong signature. The signature covers the raw body,
so nothing parses it before.
"""

import structlog
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from billing import payment_events, stripe_api

log = structlog.get_logger(__name__)

BODY_BYTES_MAX = 256 * 1024


@csrf_exempt
@require_POST
def stripe_webhook(request: HttpRequest) -> HttpResponse:
    """200 when the message is stored and handled (or waits); Stripe repeats it otherwise."""
    secret = settings.STRIPE_WEBHOOK_SECRET.strip()
    if not secret:
        return _refusal(
            503,
            "webhooks_not_configured",
            "STRIPE_WEBHOOK_SECRET is not set, so no message can be verified. Set it to the "
            "signing secret (whsec_...) of this endpoint in Stripe's dashboard and restart.",
        )
    body = request.read(BODY_BYTES_MAX + 1)
    if len(body) > BODY_BYTES_MAX:
        return _refusal(413, "request_too_large", f"At most {BODY_BYTES_MAX} bytes are read.")
    try:
        event = stripe_api.read_webhook(body, request.headers.get("Stripe-Signature", ""), secret)
    except stripe_api.InvalidWebhook as error:
        log.warning("webhook_refused", reason=str(error))
        return _refusal(400, "invalid_webhook", str(error))
    stored = payment_events.receive(event, body.decode(), at=timezone.now())
    return JsonResponse({"received": stored.provider_event_id, "outcome": stored.outcome})


def _refusal(status: int, code: str, message: str) -> HttpResponse:
    return JsonResponse({"error": {"code": code, "message": message}}, status=status)
