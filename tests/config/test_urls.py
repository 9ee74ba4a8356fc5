"""What is answered where nothing is, and when we have a bug: JSON for agents, a page for people."""

import pytest
from django.http import HttpRequest
from django.test import Client

from config import urls


@pytest.mark.django_db
@pytest.mark.parametrize("method", ["get", "post"])
def test_an_unknown_data_call_is_a_json_404_that_says_where_to_look(method: str) -> None:
    answer = getattr(Client(), method)("/api/data/aigateway/privision")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"
    assert "/api/data/docs" in answer.json()["error"]["message"]


@pytest.mark.django_db
def test_an_unknown_page_is_a_page() -> None:
    answer = Client().get("/nowhere/")
    assert answer.status_code == 404
    assert answer["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    ("path", "kind"), [("/api/data/deploy", "application/json"), ("/", "text/html")]
)
def test_a_bug_is_told_in_the_callers_form(path: str, kind: str) -> None:
    request = HttpRequest()
    request.path = path
    answer = urls.server_error(request)
    assert answer.status_code == 500
    assert answer["content-type"].startswith(kind)
