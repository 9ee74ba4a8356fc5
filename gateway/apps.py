"""Django app registration of `gateway`."""

from django.apps import AppConfig


class GatewayConfig(AppConfig):
    """Names the app; needs nothing at start."""

    name = "gateway"
    verbose_name = "Gateway"
