"""The public price list."""

from django.test import Client

from tests import factories


def test_the_price_list_needs_no_log_in_and_is_exact(db: None, client: Client) -> None:
    factories.make_route(public_name="gpt-4o", provider="openai")
    factories.make_price(
        provider="openai", model="gpt-4o", input_nanos=2_500_000_000, output_nanos=75_000_000
    )
    body = client.get("/api/prices/").json()
    assert body["currency"] == "USD"
    (model,) = body["models"]
    assert model["id"] == "gpt-4o"
    assert model["provider"] == "OpenAI"
    assert model["context_tokens_max"] == 8192
    assert model["prices"]["input"] == [
        {"from_input_tokens": 0, "dollars_per_million_tokens": "2.5"}
    ]
    assert model["prices"]["output"][0]["dollars_per_million_tokens"] == "0.075"


def test_a_model_without_a_price_is_not_available(db: None, client: Client) -> None:
    factories.make_route(public_name="new-model")
    (model,) = client.get("/api/prices/").json()["models"]
    assert model["available"] is False
    assert model["prices"] == {}


def test_the_documentation_page_loads_nothing_from_elsewhere(db: None, client: Client) -> None:
    text = client.get("/api/prices/docs").content.decode()
    assert "cdn." not in text
    assert "AI Gateway" in text
