"""Stripe for tests of payments: one real server for all of them, and money that came from it."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from billing import payments
from billing.models import Payment
from orgs.models import Organization
from tests import stripe_server
from tests.stripe_server import StripeServer


@pytest.fixture(scope="session")
def _stripe_process() -> Iterator[StripeServer]:
    with stripe_server.running() as server:
        yield server


@pytest.fixture
def stripe(_stripe_process: StripeServer, settings: Any) -> StripeServer:
    """Stripe without memory of earlier tests, and settings that lead there."""
    settings.STRIPE_API_KEY = stripe_server.API_KEY
    settings.STRIPE_WEBHOOK_SECRET = stripe_server.WEBHOOK_SECRET
    settings.STRIPE_API_BASE = _stripe_process.url
    server = _stripe_process
    server.forget_everything()
    return server


class Buyer:
    """Buys credit as a person does, without a browser."""

    def __init__(self, organization: Organization, stripe: StripeServer) -> None:
        self.organization = organization
        self.stripe = stripe
        self.number = 0

    def start(self, dollars: int = 25, *, saves: bool = False, key: str = "") -> Payment:
        """Open a Checkout."""
        self.number += 1
        key = key or f"form {self.number}"
        payments.start_checkout(
            self.organization,
            dollars * 1_000_000_000,
            key=key,
            saves_payment_method=saves,
            return_url="http://localhost:8000/back",
            by=None,
            at=timezone.now(),
        )
        return Payment.objects.get(idempotency_key=f"checkout:{self.organization.pk}:{key}")

    def buy(self, dollars: int = 25, *, saves: bool = False) -> Payment:
        """Open a Checkout, pay, and be credited by reconciliation."""
        payment = self.start(dollars, saves=saves)
        self.stripe.pay(payment.provider_session_id or "")
        payments.reconcile(timezone.now() + timedelta(hours=1))
        payment.refresh_from_db()
        assert payment.status == Payment.Status.SUCCEEDED
        return payment


@pytest.fixture
def buyer(organization: Organization, stripe: StripeServer) -> Buyer:
    return Buyer(organization, stripe)


def at_once(work: Callable[[], object], times: int = 4) -> list[object]:
    """Do the work in so many threads at the same moment; what came of each, refusals included."""
    barrier, outcomes = threading.Barrier(times), []

    def race() -> None:
        try:
            connection.ensure_connection()
            barrier.wait()
            outcomes.append(work())
        except Exception as error:
            outcomes.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=race) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
