"""What other apps' pages show of the gateway, without importing it."""

from django import template

from deployments.models import Deployment
from gateway import keys
from gateway.models import GatewayKey

register = template.Library()


@register.simple_tag
def current_key(deployment: Deployment) -> GatewayKey | None:
    """The deployment's current key, of which only the prefix is ever shown."""
    return keys.current(deployment)
