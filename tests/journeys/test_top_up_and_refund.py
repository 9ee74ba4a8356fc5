"""Buying credit and getting it back: a browser's forms, signed webhooks, real servers."""

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.journeys.conftest import Platform, wait_for
from tests.stripe_server import StripeServer, event, signature

PAGE = "/console/demo/credit/"


class Person:
    """Somebody logged in to the console, who sends the forms of its pages."""

    def __init__(self, platform: Platform, client: httpx.Client) -> None:
        self.client = client
        login = self.page("/accounts/login/")
        self.send(
            "/accounts/login/",
            login,
            login=platform.facts["email"],
            password=platform.facts["password"],
        )

    def page(self, path: str = PAGE) -> str:
        answer = self.client.get(path)
        assert answer.status_code == 200
        return answer.text

    def send(self, path: str, page: str, **fields: str) -> httpx.Response:
        """A form of `page`, with the hidden fields that came with it."""
        form = page[page.index(f'action="{path}"') :] if f'action="{path}"' in page else page
        hidden = {
            name: match.group(1)
            for name in ("csrfmiddlewaretoken", "key")
            if (match := re.search(rf'name="{name}" value="([^"]+)"', form))
        }
        answer = self.client.post(path, data=hidden | fields)
        assert answer.status_code == 302, answer.text
        return answer

    @property
    def available_cents(self) -> int:
        figure = re.search(r"<dt>Available credit</dt><dd>\$([\d,.]+)", self.page())
        assert figure is not None
        return round(float(figure.group(1).replace(",", "")) * 100)


@pytest.fixture
def person(platform: Platform, stripe: StripeServer) -> Iterator[Person]:
    stripe.send_webhooks_to(f"http://127.0.0.1:{platform.port}/webhooks/stripe")
    with httpx.Client(base_url=platform.facts["api_url"], timeout=30) as client:
        yield Person(platform, client)


def start(person: Person, stripe: StripeServer, choice: str) -> str:
    """Send the top-up form; the id of the Checkout it leads to."""
    address = person.send(f"{PAGE}top-up/", person.page(), choice=choice).headers["location"]
    assert address.startswith(f"{stripe.url}/pay/")
    return address.rsplit("/", 1)[1]


def tell(stripe: StripeServer, kind: str, data: dict[str, object]) -> str:
    answer = stripe.deliver(event(kind, data))
    assert answer.status_code == 200
    return str(answer.json()["outcome"])


def steady_cents(person: Person) -> int:
    """What is available, once calls of other stories have returned what they held."""
    seen: list[int] = []

    def is_steady() -> bool:
        seen.append(person.available_cents)
        return len(seen) > 70 and len(set(seen[-70:])) == 1

    wait_for(is_steady, seconds=60, what="the credit to be steady")
    return seen[-1]


def test_an_owner_buys_credit_and_gets_some_of_it_back(
    platform: Platform, stripe: StripeServer, person: Person
) -> None:
    before = steady_cents(person)
    session_id = start(person, stripe, "25")
    assert person.available_cents == before  # nothing is paid yet

    session = stripe.pay(session_id)
    wait_for(lambda: person.available_cents == before + 2500, what="the credit")

    # localstripe's own message about the payment comes about now, too; and anybody may post.
    completed = event("checkout.session.completed", session, id="evt_again")
    for _ in range(3):
        assert stripe.deliver(completed).status_code == 200
    forged = event("checkout.session.completed", session | {"amount_total": 1_000_000})
    for header in ("", "t=1,v1=00", signature(forged, "whsec_guessed"), signature(completed)):
        assert stripe.deliver(forged, **{"Stripe-Signature": header}).status_code == 400
    assert person.available_cents == before + 2500

    page = person.page()
    refund = re.search(r'action="(/console/demo/credit/payments/\w+/refund/)"', page)
    assert refund is not None
    for _ in range(2):  # a double click
        person.send(refund.group(1), page, amount="10.00")
    assert person.available_cents == before + 1500
    [made] = [one for one in stripe.refunds() if one["amount"] == 1000]
    told = {"id": made["id"], "status": "succeeded", "amount": 1000, "currency": "usd"}
    tell(stripe, "refund.updated", told)
    charge = {"payment_intent": session["payment_intent"], "currency": "usd"}
    assert tell(stripe, "charge.refunded", charge | {"amount_refunded": 1000}) == "Known."
    assert person.available_cents == before + 1500

    checked = platform.command("manage.py", "verify_ledger")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_messages_that_overtake_each_other_end_in_the_same_books(
    platform: Platform, stripe: StripeServer, person: Person
) -> None:
    before = person.available_cents
    session = stripe.sessions[start(person, stripe, "50")]
    payment = {"payment_intent": "pi_overtaken", "currency": "usd"}
    assert tell(stripe, "charge.refunded", payment | {"amount_refunded": 2000}).startswith("Waits")
    assert person.available_cents == before
    paid = {
        "id": "pi_overtaken",
        "status": "succeeded",
        "amount": 5000,
        "amount_received": 5000,
        "currency": "usd",
        "metadata": session["intent_metadata"],
    }
    assert tell(stripe, "payment_intent.succeeded", paid) == "Credited $50.00."
    assert tell(stripe, "checkout.session.completed", session | {"payment_status": "paid"}) == (
        "Credited before."
    )
    task = "from billing import payment_events; from django.utils import timezone; "
    task += "payment_events.handle_waiting(timezone.now())"
    done = platform.command("manage.py", "shell", "-v0", "-c", task)
    assert done.returncode == 0, done.stderr
    assert person.available_cents == before + 3000


def test_a_webhook_that_was_lost_is_made_up_for_by_asking(
    platform: Platform, stripe: StripeServer, person: Person
) -> None:
    before = person.available_cents
    session_id = start(person, stripe, "10")
    stripe.send_webhooks_to("http://127.0.0.1:9/nobody-listens")
    stripe.webhook_url = ""
    stripe.pay(session_id)
    assert person.available_cents == before
    later = "from datetime import timedelta; from billing import payments; "
    later += "from django.utils import timezone; "
    later += "payments.reconcile(timezone.now() + timedelta(hours=1))"
    done = platform.command("manage.py", "shell", "-v0", "-c", later)
    assert done.returncode == 0, done.stderr
    assert person.available_cents == before + 1000
