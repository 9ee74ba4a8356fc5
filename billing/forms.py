"""Forms of billing's pages: filters read from the query string, and what moves money.

Forms that move money carry a key made when they were shown: sent twice, they act once.
"""

import uuid
from collections.abc import Iterable
from typing import Any, ClassVar

from django import forms

from billing import money
from billing.models import UsageRecord

TOP_UP_DOLLARS = (10, 25, 50, 100)


class CallFilterForm(forms.Form):
    """Which calls to show. A value that no longer exists filters everything out, with no error."""

    request_id = forms.CharField(
        max_length=64,
        required=False,
        widget=forms.TextInput(
            attrs={"placeholder": "Request id", "autocomplete": "off", "spellcheck": "false"}
        ),
    )
    deployment = forms.ChoiceField(required=False)
    model = forms.ChoiceField(required=False)
    status = forms.ChoiceField(required=False)

    def __init__(
        self, *args: Any, deployments: Iterable[str], models: Iterable[str], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._offer("deployment", "All deployments", [(name, name) for name in deployments])
        self._offer("model", "All models", [(name, name) for name in models])
        self._offer("status", "Any status", [*UsageRecord.Status.choices])

    def _offer(self, name: str, label: str, choices: list[tuple[str, str]]) -> None:
        """Choices of a filter; one that is already in the address stays selectable."""
        current = self.data.get(name, "")
        if current and current not in dict(choices):
            choices = [*choices, (current, current)]
        field: Any = self.fields[name]
        field.choices = [("", label), *choices]
        field.widget.attrs["data-submit-on-change"] = ""


class DollarsField(forms.CharField):
    """An amount as a person types it; cleaned, nano-dollars: above zero, or not zero if signed."""

    def __init__(self, *, is_signed: bool = False, **options: Any) -> None:
        super().__init__(max_length=32, **options)
        self.is_signed = is_signed
        self.widget.attrs |= {
            "inputmode": "text" if is_signed else "decimal",
            "autocomplete": "off",
            "placeholder": "25.00",
        }

    def clean(self, value: Any) -> Any:
        """Raises ValidationError unless it is such an amount; None when it may be left out."""
        text = super().clean(value)
        if not text:
            return None
        try:
            nanos = money.nanos_from_dollars(text)
        except money.UnableToReadMoney as error:
            raise forms.ValidationError(str(error)) from None
        if nanos == 0 or (nanos < 0 and not self.is_signed):
            wanted = "other than" if self.is_signed else "above"
            raise forms.ValidationError(f"The amount must be {wanted} zero.")
        return nanos


class KeyedForm(forms.Form):
    """A form that acts once."""

    key = forms.RegexField(r"^[0-9a-f]{32}$", widget=forms.HiddenInput)

    def __init__(self, data: Any = None, **options: Any) -> None:
        options.setdefault("initial", {})["key"] = uuid.uuid4().hex
        super().__init__(data, **options)


class TopUpForm(KeyedForm):
    """One of the offered amounts, or another one."""

    choice = forms.ChoiceField(
        choices=[(str(dollars), f"${dollars}") for dollars in TOP_UP_DOLLARS] + [("other", "Other")]
    )
    amount = DollarsField(label="Other amount", required=False)
    saves_payment_method = forms.BooleanField(required=False)

    def clean(self) -> dict[str, Any]:
        """`amount_nanos` of whichever was chosen."""
        cleaned: dict[str, Any] = super().clean() or {}
        choice = cleaned.get("choice")
        if choice and choice != "other":
            cleaned["amount_nanos"] = money.nanos_from_dollars(choice)
        elif choice and "amount" in cleaned:
            cleaned["amount_nanos"] = cleaned["amount"]
            if cleaned["amount"] is None:
                self.add_error("amount", "Give an amount.")
        return cleaned


class RefundForm(KeyedForm):
    """How much of a payment goes back."""

    amount = DollarsField(label="Amount in US dollars")


class NamedForm(forms.Form):
    """A form on a page with others: its fields' ids begin with its own name."""

    name: ClassVar[str]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"auto_id": f"{self.name}_%s", **options})


class AutoTopUpForm(NamedForm):
    """When to buy, how much, and how much a month at most."""

    name = "auto"
    is_enabled = forms.BooleanField(required=False)
    threshold = DollarsField(label="When credit falls below")
    amount = DollarsField(label="Buy")
    monthly_cap = DollarsField(label="At most per month")


class AgentTopUpForm(NamedForm):
    """Whether agents may buy, and how much a month at most."""

    name = "agents"
    is_allowed = forms.BooleanField(required=False)
    monthly_cap = DollarsField(label="At most per month")
