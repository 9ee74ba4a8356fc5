"""Django app of the wiring: gives `config` its management commands and system checks."""

from django.apps import AppConfig


class ConfigApp(AppConfig):
    """Registers the platform's own system checks."""

    name = "config"
    verbose_name = "Platform"

    def ready(self) -> None:
        """Import checks so that `manage.py check` runs them."""
        from config import checks  # noqa: F401
