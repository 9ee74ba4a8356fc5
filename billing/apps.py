"""Django app registration of `billing`."""

from django.apps import AppConfig


class BillingConfig(AppConfig):
    """Names the app; needs nothing at start."""

    name = "billing"
    verbose_name = "Billing"
