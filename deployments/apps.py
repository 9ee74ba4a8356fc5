"""Django app registration of `deployments`."""

from django.apps import AppConfig


class DeploymentsConfig(AppConfig):
    """Names the app; needs nothing at start."""

    name = "deployments"
    verbose_name = "Deployments"
