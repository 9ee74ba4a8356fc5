"""All commands: importing their modules adds them to the group."""

from deployments.cli import environment, keys, logs, releases, site
from deployments.cli.group import main

__all__ = ["environment", "keys", "logs", "main", "releases", "site"]
