"""Paths of billing's part of the data API, below `/api/data/`."""

from django.urls import path

from billing import api

urlpatterns = [
    # /api/data/billing/
    path("billing/balance", api.BalanceView.as_view(), name="billing-balance"),
    path("billing/top-up", api.TopUpView.as_view(), name="billing-top-up"),
]
