"""Forms of the organization's pages."""

from django import forms

from orgs import outbound
from orgs.models import Membership


class TokenForm(forms.Form):
    """Names a new workspace token."""

    name = forms.CharField(
        max_length=120,
        widget=forms.TextInput(attrs={"placeholder": "ci, laptop, agent…", "autocomplete": "off"}),
        error_messages={"required": "Give the token a name, so that you know later who uses it."},
    )
    workspace = forms.CharField(max_length=32, required=False)


class MemberForm(forms.Form):
    """Who is added, and with which role."""

    email = forms.EmailField(
        max_length=254,
        widget=forms.EmailInput(
            attrs={"placeholder": "name@example.com", "autocomplete": "off", "spellcheck": "false"}
        ),
        error_messages={"required": "Give the e-mail address of whom you add."},
    )
    role = forms.ChoiceField(choices=Membership.Role.choices, initial=Membership.Role.MEMBER)


class RoleForm(forms.Form):
    """Another role of a member."""

    role = forms.ChoiceField(choices=Membership.Role.choices)


class WebhookForm(forms.Form):
    """Where events are posted."""

    url = forms.CharField(
        label="Address",
        max_length=outbound.URL_CHARACTERS_MAX,
        widget=forms.TextInput(
            attrs={"placeholder": "https://example.com/hooks/ai-gateway", "autocomplete": "off"}
        ),
        error_messages={"required": "Give the https address of your server."},
    )

    def clean_url(self) -> str:
        """The address. Raises ValidationError saying why nothing may be posted there."""
        url: str = self.cleaned_data["url"]
        try:
            outbound.check_url(url)
        except outbound.UnableToPost as error:
            raise forms.ValidationError(str(error)) from None
        return url
