"""Django app registration of `orgs`."""

from django.apps import AppConfig


class OrgsConfig(AppConfig):
    """Names the app; needs nothing at start."""

    name = "orgs"
    verbose_name = "Organizations"
