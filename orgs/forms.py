"""Forms of the organization's pages."""

from django import forms


class TokenForm(forms.Form):
    """Names a new workspace token."""

    name = forms.CharField(
        max_length=120,
        widget=forms.TextInput(attrs={"placeholder": "ci, laptop, agent…", "autocomplete": "off"}),
        error_messages={"required": "Give the token a name, so that you know later who uses it."},
    )
    workspace = forms.CharField(max_length=32, required=False)
