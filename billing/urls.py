"""Console pages of usage: calls."""

from django.urls import path

from billing import views

app_name = "billing"
urlpatterns = [
    path("calls/", views.call_list, name="call-list"),
    path("calls/export.csv", views.call_export, name="call-export"),
    path("calls/<str:request_id>/", views.call_detail, name="call-detail"),
]
