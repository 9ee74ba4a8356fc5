"""Stripe: the calls we make of it, with their timeouts, and what its objects mean to us.

The only module that knows the `stripe` library. Synchronous: for Django's views and Celery, never
for the AI API's event loop. Every call that moves money carries the idempotency key that was stored
before the first try, so repeating it after a failure of unknown outcome is safe
(https://docs.stripe.com/api/idempotent_requests). Must not know our tables.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import stripe
from django.conf import settings

from billing.money import NANOS_PER_DOLLAR

Answer = TypeVar("Answer")

CONNECT_SECONDS_MAX = 5.0
ANSWER_SECONDS_MAX = 15.0
# The library repeats a call itself when the connection fails, with the same key.
RETRIES = 1
CURRENCY = "usd"
NANOS_PER_CENT = NANOS_PER_DOLLAR // 100
# Our payment's or refund's public id travels in its metadata and comes back with every event.
REFERENCE = "reference"
RETRYABLE_STATUS = frozenset({409, 429})


class PaymentsNotConfigured(Exception):
    """No API key is set; nothing can be asked of Stripe."""


class UnableToReachStripe(Exception):
    """The outcome is not known: ask again later, with the same key."""


class StripeRefused(Exception):
    """Stripe has decided against this request; asking the same again changes nothing."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class PaymentDeclined(StripeRefused):
    """The customer's bank or card said no."""


class InvalidWebhook(Exception):
    """The message is not from Stripe, or not readable."""


@dataclass(frozen=True, slots=True)
class Session:
    """A Checkout: where a person pays. `amount_nanos` is None when not in US dollars."""

    id: str
    url: str
    is_open: bool
    is_paid: bool
    payment_id: str
    amount_nanos: int | None
    reference: str


@dataclass(frozen=True, slots=True)
class Intent:
    """A payment being made. `amount_nanos` is what was received, None when not in US dollars."""

    id: str
    status: str
    amount_nanos: int | None
    reference: str
    payment_method_id: str
    failure: str

    @property
    def is_paid(self) -> bool:
        """Whether the money is there."""
        return self.status == "succeeded"

    @property
    def is_processing(self) -> bool:
        """Whether the bank has not decided yet."""
        return self.status == "processing"


@dataclass(frozen=True, slots=True)
class RefundState:
    """A refund as Stripe knows it. `amount_nanos` is None when not in US dollars."""

    id: str
    status: str
    amount_nanos: int | None
    payment_id: str
    reference: str
    failure: str


@dataclass(frozen=True, slots=True)
class Event:
    """A verified message: its id, its type, and the object it speaks of."""

    id: str
    type: str
    data: Mapping[str, Any]


def is_configured() -> bool:
    """Whether there is a key to ask Stripe with."""
    return bool(settings.STRIPE_API_KEY)


# --- Asking ------------------------------------------------------------------------------------
def create_customer(*, name: str, reference: str, idempotency_key: str) -> str:
    """A customer's id. Raises as `_ask`."""
    customer = _ask(
        lambda client: client.v1.customers.create(
            {"name": name, "metadata": {REFERENCE: reference}},
            {"idempotency_key": idempotency_key},
        )
    )
    return customer.id


def create_checkout(
    *,
    customer_id: str,
    amount_nanos: int,
    description: str,
    reference: str,
    saves_payment_method: bool,
    success_url: str,
    cancel_url: str,
    idempotency_key: str,
) -> Session:
    """A page of Stripe's where a person pays this amount. Raises as `_ask`."""
    intent: Any = {"metadata": {REFERENCE: reference}}
    if saves_payment_method:
        intent["setup_future_usage"] = "off_session"
    product: Any = {
        "currency": CURRENCY,
        "unit_amount": cents_of(amount_nanos),
        "product_data": {"name": description},
    }
    session = _ask(
        lambda client: client.v1.checkout.sessions.create(
            {
                "mode": "payment",
                "customer": customer_id,
                "client_reference_id": reference,
                "metadata": {REFERENCE: reference},
                "line_items": [{"quantity": 1, "price_data": product}],
                "payment_intent_data": intent,
                "success_url": success_url,
                "cancel_url": cancel_url,
            },
            {"idempotency_key": idempotency_key},
        )
    )
    return session_of(session.to_dict())


def retrieve_checkout(session_id: str) -> Session:
    """A Checkout as it is now. Raises as `_ask`."""
    return session_of(
        _ask(lambda client: client.v1.checkout.sessions.retrieve(session_id)).to_dict()
    )


def charge_saved_method(
    *,
    customer_id: str,
    payment_method_id: str,
    amount_nanos: int,
    reference: str,
    idempotency_key: str,
) -> Intent:
    """Charge a saved payment method while nobody is there to confirm. Raises as `_ask`."""
    intent = _ask(
        lambda client: client.v1.payment_intents.create(
            {
                "amount": cents_of(amount_nanos),
                "currency": CURRENCY,
                "customer": customer_id,
                "payment_method": payment_method_id,
                "off_session": True,
                "confirm": True,
                "metadata": {REFERENCE: reference},
            },
            {"idempotency_key": idempotency_key},
        )
    )
    return intent_of(intent.to_dict())


def retrieve_intent(payment_id: str) -> Intent:
    """A payment as it is now. Raises as `_ask`."""
    return intent_of(_ask(lambda client: client.v1.payment_intents.retrieve(payment_id)).to_dict())


def cancel_intent(payment_id: str, *, idempotency_key: str) -> None:
    """Let nobody complete this payment any more. Raises as `_ask`."""
    _ask(
        lambda client: client.v1.payment_intents.cancel(
            payment_id, options={"idempotency_key": idempotency_key}
        )
    )


def describe_payment_method(payment_method_id: str) -> str:
    """What its owner recognizes it by: "visa ending in 4242". Raises as `_ask`."""
    method = _ask(lambda client: client.v1.payment_methods.retrieve(payment_method_id)).to_dict()
    details = method.get(method.get("type") or "") or {}
    name = details.get("brand") or str(method.get("type") or "card").replace("_", " ")
    return f"{name} ending in {details['last4']}" if details.get("last4") else name


def refund(
    *, payment_id: str, amount_nanos: int, reference: str, idempotency_key: str
) -> RefundState:
    """Send so much of a payment back. Raises as `_ask`."""
    made = _ask(
        lambda client: client.v1.refunds.create(
            {
                "payment_intent": payment_id,
                "amount": cents_of(amount_nanos),
                "metadata": {REFERENCE: reference},
            },
            {"idempotency_key": idempotency_key},
        )
    )
    return refund_of(made.to_dict())


def refunds_of(payment_id: str) -> list[RefundState]:
    """Every refund of a payment, the latest hundred. Raises as `_ask`."""
    found = _ask(
        lambda client: client.v1.refunds.list({"payment_intent": payment_id, "limit": 100})
    )
    return [refund_of(item.to_dict()) for item in found.data]


def _ask(request: Callable[[stripe.StripeClient], Answer]) -> Answer:
    """Ask Stripe.

    Raises PaymentsNotConfigured, UnableToReachStripe, PaymentDeclined, StripeRefused. Messages of
    Stripe about our own key are not passed on.
    """
    if not settings.STRIPE_API_KEY:
        raise PaymentsNotConfigured("STRIPE_API_KEY is not set.")
    client = _client(settings.STRIPE_API_KEY, settings.STRIPE_API_BASE)
    try:
        return request(client)
    except stripe.CardError as error:
        raise PaymentDeclined(
            error.code or "card_declined", error.user_message or "The payment was declined."
        ) from None
    except (stripe.AuthenticationError, stripe.PermissionError):
        raise UnableToReachStripe("Stripe does not accept the platform's API key.") from None
    except stripe.StripeError as error:
        status = error.http_status
        if status is None or status >= 500 or status in RETRYABLE_STATUS:
            raise UnableToReachStripe("Stripe does not answer just now.") from None
        raise StripeRefused(
            error.code or "refused", error.user_message or "Stripe refused the request."
        ) from None


@lru_cache(maxsize=4)
def _client(api_key: str, api_base: str) -> stripe.StripeClient:
    return stripe.StripeClient(
        api_key,
        base_addresses={"api": api_base} if api_base else {},
        max_network_retries=RETRIES,
        http_client=stripe.RequestsClient(timeout=(CONNECT_SECONDS_MAX, ANSWER_SECONDS_MAX)),
    )


# --- Reading -----------------------------------------------------------------------------------
def read_webhook(body: bytes, signature: str, secret: str) -> Event:
    """A message whose signature is right over these very bytes. Raises InvalidWebhook.

    An empty secret verifies nothing, so it is refused here as well as by the library.
    """
    if not secret.strip():
        raise InvalidWebhook("There is no secret to verify it with.")
    try:
        event = stripe.Webhook.construct_event(body, signature, secret).to_dict()
        return Event(str(event["id"]), str(event["type"]), event["data"]["object"])
    except stripe.SignatureVerificationError:
        raise InvalidWebhook("The signature is not right.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidWebhook("The message is not a readable event.") from None


def stored_event(body: str) -> Event:
    """A message that was verified when it came, from its stored body."""
    event = json.loads(body)
    return Event(str(event["id"]), str(event["type"]), event["data"]["object"])


def session_of(data: Mapping[str, Any]) -> Session:
    """A `checkout.session` object."""
    return Session(
        id=data["id"],
        url=data.get("url") or "",
        is_open=data.get("status") == "open",
        is_paid=data.get("payment_status") == "paid",
        payment_id=_id(data.get("payment_intent")),
        amount_nanos=_nanos(data, "amount_total"),
        reference=_reference(data) or str(data.get("client_reference_id") or ""),
    )


def intent_of(data: Mapping[str, Any]) -> Intent:
    """A `payment_intent` object."""
    error = data.get("last_payment_error") or {}
    received = "amount_received" if data.get("amount_received") is not None else "amount"
    return Intent(
        id=data["id"],
        status=str(data.get("status") or ""),
        amount_nanos=_nanos(data, received),
        reference=_reference(data),
        payment_method_id=_id(data.get("payment_method")),
        failure=str(error.get("message") or ""),
    )


def refund_of(data: Mapping[str, Any]) -> RefundState:
    """A `refund` object."""
    return RefundState(
        id=data["id"],
        status=str(data.get("status") or ""),
        amount_nanos=_nanos(data, "amount"),
        payment_id=_id(data.get("payment_intent")),
        reference=_reference(data),
        failure=str(data.get("failure_reason") or ""),
    )


def payment_id_of(data: Mapping[str, Any]) -> str:
    """The payment that a charge or dispute belongs to; "" when it names none."""
    return _id(data.get("payment_intent"))


def is_inquiry(data: Mapping[str, Any]) -> bool:
    """Whether a `dispute` is only a question of the bank so far: no money has been taken.

    docs.stripe.com/disputes/how-disputes-work (inquiries), docs.stripe.com/api/disputes/object.
    """
    return str(data.get("status") or "").startswith("warning_")


def nanos_of(data: Mapping[str, Any], field: str) -> int | None:
    """An amount of any object in nano-dollars; None when not in US dollars."""
    return _nanos(data, field)


def cents_of(nanos: int) -> int:
    """Nano-dollars as the cents that Stripe counts in. Raises ValueError for parts of a cent."""
    cents, rest = divmod(nanos, NANOS_PER_CENT)
    if rest:
        raise ValueError("Stripe takes whole cents.")
    return cents


def _nanos(data: Mapping[str, Any], field: str) -> int | None:
    amount = data.get(field)
    if str(data.get("currency") or "").lower() != CURRENCY or not isinstance(amount, int):
        return None
    return amount * NANOS_PER_CENT


def _reference(data: Mapping[str, Any]) -> str:
    return str((data.get("metadata") or {}).get(REFERENCE) or "")


def _id(value: Any) -> str:
    """An id, given plain or as an expanded object."""
    if isinstance(value, Mapping):
        return str(value.get("id") or "")
    return str(value or "")
