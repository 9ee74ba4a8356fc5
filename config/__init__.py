"""Wiring only: settings, environment readers, checks, ASGI routing, URLs, Celery, logging.

Must hold no domain rule; everything that decides something lives in one of the apps below it.
"""

from config.celery import app as celery_app

__all__ = ["celery_app"]
