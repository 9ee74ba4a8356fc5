"""Calls of the data API that happen once for an Idempotency-Key."""

from typing import Any

import pytest
from django.test import RequestFactory
from rest_framework.request import Request
from rest_framework.response import Response

from orgs.data_api import OnceView
from orgs.errors import DataApiError
from orgs.models import IdempotentRequest, Workspace
from tests import factories

Call = Any


class Pay(OnceView):
    """Counts how often it was carried out."""

    times = 0
    fails = False

    def post_once(self, request: Request) -> Response:
        Pay.times += 1
        if Pay.fails:
            raise DataApiError("declined", "The card was declined.", status_code=402)
        return Response({"paid": request.data["amount"], "time": Pay.times}, status=201)


@pytest.fixture
def pay(workspace: Workspace) -> Call:
    Pay.times, Pay.fails = 0, False
    view, token = Pay.as_view(), factories.make_token(workspace=workspace)

    def call(key: str | None = None, *, amount: int = 5, token: str = token) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        request = RequestFactory().post(
            "/api/data/pay", {"amount": amount}, content_type="application/json", headers=headers
        )
        return view(request).render() if key is None else _rendered(view(request))

    return call


def _rendered(response: Any) -> Any:
    return response.render() if hasattr(response, "render") else response


def test_without_a_key_every_call_is_carried_out(pay: Call) -> None:
    assert (pay().status_code, pay().status_code) == (201, 201)
    assert Pay.times == 2
    assert not IdempotentRequest.objects.exists()


def test_the_same_call_again_gets_the_same_answer(pay: Call) -> None:
    first, second = pay("k"), pay("k")
    assert Pay.times == 1
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert second["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first


def test_another_call_with_the_key_is_refused(pay: Call) -> None:
    pay("k")
    refused = pay("k", amount=6)
    assert (refused.status_code, refused.data["error"]["code"]) == (422, "idempotency_key_reused")
    assert Pay.times == 1


def test_a_refusal_is_not_kept(pay: Call) -> None:
    Pay.fails = True
    assert pay("k").status_code == 402
    Pay.fails = False
    assert pay("k").status_code == 201


def test_a_call_in_progress_says_when_to_ask_again(
    pay: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner: list[Any] = []

    def slow(self: OnceView, request: Request) -> Response:
        if not inner:
            inner.append(None)
            inner[0] = pay("k")
        return Response({})

    monkeypatch.setattr(Pay, "post_once", slow)
    assert pay("k").status_code == 200
    assert inner[0].status_code == 409
    assert inner[0].data["error"]["code"] == "idempotency_in_progress"
    assert int(inner[0]["Retry-After"]) > 0


def test_a_key_that_is_none_is_refused(pay: Call) -> None:
    refused = pay("a b")
    assert (refused.status_code, refused.data["error"]["code"]) == (400, "idempotency_key_invalid")


def test_an_outsiders_key_is_another(pay: Call) -> None:
    pay("k")
    outsider = factories.make_token(workspace=factories.make_workspace())
    assert "Idempotent-Replayed" not in pay("k", token=outsider)
    assert Pay.times == 2
