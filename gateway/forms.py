"""Forms of limits, for the console and the admin: whole numbers, budgets in dollars, models."""

from collections.abc import Collection
from typing import Any

from django import forms

from billing import money
from gateway import allowances, catalog
from gateway.models import Limit

NUMBERS = {
    "requests_per_minute": "Requests per minute",
    "tokens_per_minute": "Tokens per minute",
    "concurrency": "Calls at once",
}
BUDGETS = {
    "daily_budget_nanos": "Budget per day (USD)",
    "monthly_budget_nanos": "Budget per month (USD)",
}


class DollarsField(forms.CharField):
    """A positive amount of dollars, cleaned to nano-dollars; empty means None."""

    def to_python(self, value: Any) -> Any:
        """Nano-dollars. Raises ValidationError saying what to type."""
        text = super().to_python(value)
        if not text:
            return None
        try:
            return allowances.budget_from_dollars(text)
        except allowances.UnableToReadBudget as error:
            raise forms.ValidationError(str(error)) from None


class ModelsField(forms.MultipleChoiceField):
    """Models to be confined to, by public name; none means all."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, **kwargs)

    def offer(self, named: Collection[str]) -> None:
        """The models there are, and what is `named` already: saving must not take that away."""
        offered = list(catalog.names())
        gone = sorted(set(named).difference(offered))
        self.choices = [
            *((name, name) for name in offered),
            *((name, f"{name} (not offered now)") for name in gone),
        ]


def dollars(nanos: int | None) -> str:
    """An amount as it is typed: exact, without a sign; empty for none."""
    return "" if nanos is None else format(money.dollars_from_nanos(nanos), "f")


class LimitForm(forms.Form):
    """The limits of one scope. What is left empty is not limited there.

    `row` is what the scope has now.
    """

    def __init__(self, data: Any = None, *, row: Limit | None) -> None:
        super().__init__(data, initial=initial(row))
        for name, label in NUMBERS.items():
            self.fields[name] = forms.IntegerField(
                label=label,
                required=False,
                min_value=1,
                max_value=allowances.NUMBER_MAX,
                widget=forms.TextInput(
                    attrs={"inputmode": "numeric", "placeholder": "No limit", "autocomplete": "off"}
                ),
                error_messages={
                    "invalid": "Give a whole number, or leave it empty for no limit.",
                    "min_value": "Give at least 1, or leave it empty for no limit.",
                },
            )
        for name, label in BUDGETS.items():
            self.fields[name] = DollarsField(
                label=label,
                required=False,
                widget=forms.TextInput(
                    attrs={"inputmode": "decimal", "placeholder": "No limit", "autocomplete": "off"}
                ),
            )

        models = ModelsField(label="Models", widget=forms.CheckboxSelectMultiple)
        models.offer(row.allowed_models if row else ())
        self.fields["allowed_models"] = models

    def values(self) -> allowances.Values:
        """All six, by the names of the row's fields."""
        return {name: self.cleaned_data[name] for name in (*NUMBERS, *BUDGETS, "allowed_models")}


def initial(row: Limit | None) -> dict[str, Any]:
    """What the form shows of a row, or of no row."""
    numbers = {name: getattr(row, name, None) for name in NUMBERS}
    budgets = {name: dollars(getattr(row, name, None)) for name in BUDGETS}
    return {**numbers, **budgets, "allowed_models": row.allowed_models if row else []}
