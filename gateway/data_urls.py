"""Paths of the gateway's part of the data API, below `/api/data/`."""

from django.urls import path

from gateway import api

urlpatterns = [
    # /api/data/aigateway/
    path("aigateway/provision", api.ProvisionView.as_view(), name="aigateway-provision"),
    path("aigateway/info", api.InfoView.as_view(), name="aigateway-info"),
    path("aigateway/revoke", api.RevokeView.as_view(), name="aigateway-revoke"),
    path("aigateway/rotate", api.RotateView.as_view(), name="aigateway-rotate"),
    path("aigateway/limits", api.LimitsView.as_view(), name="aigateway-limits"),
    path("aigateway/calls", api.CallsView.as_view(), name="aigateway-calls"),
    path("aigateway/usage", api.UsageView.as_view(), name="aigateway-usage"),
]
