"""Forms of the calls page: its filters, read from the query string."""

from collections.abc import Iterable
from typing import Any

from django import forms

from billing.models import UsageRecord


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
