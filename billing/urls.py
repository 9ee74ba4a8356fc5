"""Console pages of billing: calls, spend and statements."""

from django.urls import path

from billing.views import calls, spend, statements

app_name = "billing"
urlpatterns = [
    path("calls/", calls.call_list, name="call-list"),
    path("calls/export.csv", calls.call_export, name="call-export"),
    path("calls/<str:request_id>/", calls.call_detail, name="call-detail"),
    path("spend/", spend.spend, name="spend"),
    path("spend/export.csv", spend.spend_export, name="spend-export"),
    path("statements/", statements.statement_list, name="statement-list"),
    path("statements/<str:month>/", statements.statement_detail, name="statement-detail"),
    path(
        "statements/<str:month>/statement.csv", statements.statement_export, name="statement-export"
    ),
    path("statements/<str:month>/statement.json", statements.statement_json, name="statement-json"),
]
