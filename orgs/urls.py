"""Console pages of the organization itself."""

from django.urls import path

from orgs import views

app_name = "orgs"
urlpatterns = [
    # members: who belongs to the organization, and what they may do
    path("members/", views.member_list, name="member-list"),
    path("members/add/", views.member_add, name="member-add"),
    path("members/<int:member_id>/role/", views.member_role, name="member-role"),
    path("members/<int:member_id>/remove/", views.member_remove, name="member-remove"),
    # webhook: where the organization's own server hears of events
    path("webhook/", views.webhook_detail, name="webhook-detail"),
    path("webhook/set/", views.webhook_set, name="webhook-set"),
    path("webhook/rotate/", views.webhook_rotate, name="webhook-rotate"),
    path("webhook/test/", views.webhook_test, name="webhook-test"),
    path("webhook/remove/", views.webhook_remove, name="webhook-remove"),
    # tokens: what agents and the deploy client authenticate with
    path("tokens/", views.token_list, name="token-list"),
    path("tokens/create/", views.token_create, name="token-create"),
    path("tokens/<slug:token_id>/revoke/", views.token_revoke, name="token-revoke"),
]
