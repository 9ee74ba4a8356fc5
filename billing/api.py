"""The `billing/*` calls of the data API: the organization's balance, and buying credit.

Parses, makes one domain call, answers. A workspace token speaks for its workspace, the credit is
the organization's; whether tokens may buy any is switched on by its owners or staff.
"""

from django.conf import settings
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from billing import agent_top_up, auto_top_up, ledger, payments, stripe_api
from billing.models import Payment
from billing.serializers import BalanceSerializer, PurchaseSerializer, TopUpSerializer
from orgs.data_api import (
    IDEMPOTENCY_HEADER,
    REQUIRED_IDEMPOTENCY_PARAMETER,
    DataApiCall,
    OnceView,
    workspace_of,
)
from orgs.errors import DataApiError
from orgs.models import Organization

Status = Payment.Status


class BalanceView(DataApiCall):
    """The organization's credit."""

    @extend_schema(request=None, responses=BalanceSerializer, tags=["billing"])
    def post(self, request: Request) -> Response:
        """What is left, and whether workspace tokens may buy more."""
        organization = workspace_of(request).organization
        balance = ledger.balance(organization)
        setting = agent_top_up.setting_of(organization)
        bought = agent_top_up.spent_this_month_nanos(organization.pk, timezone.now())
        answer = {
            "availableUsd": balance.available_nanos,
            "heldUsd": balance.held_nanos,
            "balanceUsd": balance.posted_nanos,
            "owedUsd": ledger.owed_nanos(organization.pk),
            "topUp": {
                "allowed": setting is not None and setting.is_allowed,
                "hasPaymentMethod": auto_top_up.saved_method_of(organization) is not None,
                "monthlyCapUsd": setting.monthly_cap_nanos if setting else None,
                "boughtThisMonthUsd": bought,
                "minUsd": payments.AMOUNT_NANOS_MIN,
                "maxUsd": payments.AMOUNT_NANOS_MAX,
            },
        }
        return Response(BalanceSerializer(answer).data)


@extend_schema_view(
    post=extend_schema(
        request=TopUpSerializer,
        responses={200: PurchaseSerializer, 202: PurchaseSerializer},
        parameters=[REQUIRED_IDEMPOTENCY_PARAMETER],
        description="Charge the saved payment method and credit the amount; 202 while Stripe or "
        "the bank has not decided. Needs an Idempotency-Key, and an owner who allowed it.",
        tags=["billing"],
    )
)
class TopUpView(OnceView):
    """Buy credit with the saved payment method."""

    def is_final(self, response: Response) -> bool:
        """What waits for Stripe is told anew: its own key keeps the payment one."""
        return response.status_code == 200

    def post_once(self, request: Request) -> Response:
        """The payment as it stands. Raises DataApiError: 400, 402, 403, 409, 422, 503."""
        key = request.headers.get(IDEMPOTENCY_HEADER)
        if key is None:
            raise DataApiError(
                "idempotency_key_required",
                "Send an Idempotency-Key header of your own making (a UUID, say), and the same key "
                "when you repeat this purchase: then it is charged once.",
            )
        body = TopUpSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        workspace = workspace_of(request)
        if not stripe_api.is_configured():
            message = "Payments are not set up on this platform; ask its staff for credit."
            raise DataApiError("payments_not_configured", message, status_code=503)
        try:
            payment = agent_top_up.buy(
                workspace, body.validated_data["amountUsd"], key=key, at=timezone.now()
            )
        except agent_top_up.NotAllowed:
            raise _not_allowed(workspace.organization) from None
        except agent_top_up.KeyReused:
            message = "This Idempotency-Key was used for another amount. Use a new key."
            raise DataApiError("idempotency_key_reused", message, status_code=422) from None
        except agent_top_up.UnableToBuy as error:
            message = f"{error} {_console(workspace.organization)}"
            raise DataApiError("top_up_not_possible", message, status_code=409) from None
        except payments.UnableToTopUp as error:
            raise ValidationError({"amountUsd": str(error)}) from None
        return _answer(payment, workspace.organization)


def _answer(payment: Payment, organization: Organization) -> Response:
    """How the payment stands. Raises DataApiError when nothing was paid."""
    if payment.status == Status.FAILED:
        message = f"Nothing was charged: {payment.failure} Use a new Idempotency-Key to try again."
        raise DataApiError("payment_declined", message, status_code=402)
    answer = {
        "paymentId": payment.public_id,
        "status": payment.status.lower(),
        "amountUsd": payment.amount_nanos,
        "availableUsd": ledger.balance(organization).available_nanos,
    }
    is_paid = payment.status == Status.SUCCEEDED
    return Response(PurchaseSerializer(answer).data, status=200 if is_paid else 202)


def _not_allowed(organization: Organization) -> DataApiError:
    return DataApiError(
        "top_up_not_allowed",
        f"Workspace tokens may not buy credit for {organization.name}. An owner can allow it: "
        f"{_console(organization)}",
        status_code=403,
    )


def _console(organization: Organization) -> str:
    """Where people settle what stands in the way."""
    return f"{settings.PUBLIC_URL}{reverse('billing:credit', args=[organization.slug])}"
