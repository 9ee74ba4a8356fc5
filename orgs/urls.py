"""Console pages of the organization itself."""

from django.urls import path

from orgs import views

app_name = "orgs"
urlpatterns = [
    # tokens: what agents and the deploy client authenticate with
    path("tokens/", views.token_list, name="token-list"),
    path("tokens/create/", views.token_create, name="token-create"),
    path("tokens/<slug:token_id>/revoke/", views.token_revoke, name="token-revoke"),
]
