"""Shapes of the `billing/*` calls of the data API. Part of billing/api.py."""

from typing import Any

from rest_framework import serializers

from billing import money


class DollarsField(serializers.Field[int, Any, str, Any]):
    """An amount of dollars as text; nano-dollars inside."""

    def to_internal_value(self, data: Any) -> int:
        """Nano-dollars. Raises ValidationError saying what to send."""
        if not isinstance(data, str):
            raise serializers.ValidationError('Send dollars as text, such as "25.00".')
        try:
            return money.nanos_from_dollars(data)
        except money.UnableToReadMoney as error:
            raise serializers.ValidationError(str(error)) from None

    def to_representation(self, value: int) -> str:
        """Exact dollars."""
        return format(money.dollars_from_nanos(value), "f")


class TopUpSerializer(serializers.Serializer[Any]):
    """How much to buy."""

    amountUsd = DollarsField()


class PurchaseSerializer(serializers.Serializer[Any]):
    """Answer of `top-up`."""

    paymentId = serializers.CharField()
    status = serializers.ChoiceField(choices=["succeeded", "pending", "review"])
    amountUsd = DollarsField()
    availableUsd = DollarsField(help_text="Credit that calls may spend, after the purchase.")


class AgentTopUpSerializer(serializers.Serializer[Any]):
    """Whether workspace tokens may buy credit, and how much."""

    allowed = serializers.BooleanField()
    hasPaymentMethod = serializers.BooleanField()
    monthlyCapUsd = DollarsField(allow_null=True)
    boughtThisMonthUsd = DollarsField()
    minUsd = DollarsField()
    maxUsd = DollarsField()


class BalanceSerializer(serializers.Serializer[Any]):
    """Answer of `balance`: the organization's credit."""

    availableUsd = DollarsField(help_text="What calls may still spend.")
    heldUsd = DollarsField(help_text="Held for calls in flight and refunds.")
    balanceUsd = DollarsField(help_text="Both together.")
    owedUsd = DollarsField(help_text="Collected from the next credit that arrives.")
    topUp = AgentTopUpSerializer()
