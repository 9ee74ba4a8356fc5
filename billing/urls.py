"""Console pages of billing: calls, spend, statements and credit."""

from django.urls import path

from billing.views import calls, credit, spend, statements

app_name = "billing"
urlpatterns = [
    path("calls/", calls.call_list, name="call-list"),
    path("calls/export.csv", calls.call_export, name="call-export"),
    path("calls/<str:request_id>/", calls.call_detail, name="call-detail"),
    path("spend/", spend.spend, name="spend"),
    path("spend/export.csv", spend.spend_export, name="spend-export"),
    # credit/: what is left, buying more, getting unspent money back
    path("credit/", credit.credit, name="credit"),
    path("credit/top-up/", credit.top_up, name="top-up"),
    path("credit/auto-top-up/", credit.auto_top_up_change, name="auto-top-up"),
    path("credit/agent-top-up/", credit.agent_top_up_change, name="agent-top-up"),
    path("credit/payments/<slug:payment_id>/refund/", credit.refund_create, name="refund-create"),
    path("statements/", statements.statement_list, name="statement-list"),
    path("statements/<str:month>/", statements.statement_detail, name="statement-detail"),
    path(
        "statements/<str:month>/statement.csv", statements.statement_export, name="statement-export"
    ),
    path("statements/<str:month>/statement.json", statements.statement_json, name="statement-json"),
]
