"""Forms of limits, for the console and the admin: whole numbers, and budgets in dollars."""

from typing import Any

from django import forms

from billing import money
from gateway import allowances

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


def dollars(nanos: int | None) -> str:
    """An amount as it is typed: exact, without a sign; empty for none."""
    return "" if nanos is None else format(money.dollars_from_nanos(nanos), "f")


class LimitForm(forms.Form):
    """The limits of one scope. What is left empty is not limited there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
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

    def values(self) -> dict[str, int | None]:
        """All five, by the names of the row's fields."""
        return {name: self.cleaned_data[name] for name in (*NUMBERS, *BUDGETS)}


def initial(row: Any) -> dict[str, Any]:
    """What the form shows of a row, or of no row."""
    numbers = {name: getattr(row, name, None) for name in NUMBERS}
    return numbers | {name: dollars(getattr(row, name, None)) for name in BUDGETS}
