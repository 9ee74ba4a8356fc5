"""A storyteller: does things with the platform's own code and prints every ledger line they make.

For the worked examples, which are read by people who know bookkeeping and no Python.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from django.db.models import Q, Sum

from billing import charges, checks, expiry, grants, ledger, payments, refunds, stripe_api
from billing.models import LedgerAccount, Payment, Refund, Transfer
from billing.money import format_dollars, nanos_from_dollars
from orgs.models import Organization

YEAR = 2030
HEAD = "| day | what happened | debit | credit | amount | |\n|---|---|---|---|---:|---|"


def differences_besides_calls(organization: Organization) -> list[str]:
    """What the ledger's check finds, where charges were posted for calls that have no records."""
    about_calls = ("usage records cost", "its calls cost")
    found = checks.verify(organization).differences
    return [text for text in found if not any(words in text for words in about_calls)]


class Books:
    """One organization's dealings with us, in dollars and in the order they happened."""

    def __init__(self, organization: Organization) -> None:
        self.organization = organization
        self.text: list[str] = []
        self.lines_told = 0
        self._latest_id = 0
        self._is_in_table = False
        self._number = 0
        self.payment: Payment | None = None
        self.refund: Refund | None = None

    # --- What may happen ------------------------------------------------------------------------
    def promise(self, day: str, dollars: str, *, until: str) -> None:
        """Promotional credit through a day."""
        self._tell(
            day,
            f"We give ${dollars} to try the platform, to be spent by {until}",
            lambda at: ledger.grant(
                self.organization,
                nanos_from_dollars(dollars),
                reason="welcome",
                idempotency_key=self._key(),
                expires_at=grants.end_of(_moment(until).date()),
                at=at,
            ),
        )

    def pay(self, day: str, dollars: str) -> None:
        """A card payment that Stripe has confirmed."""
        self._number += 1
        nanos = nanos_from_dollars(dollars)
        self.payment = Payment.objects.create(
            organization=self.organization,
            kind=Payment.Kind.CHECKOUT,
            amount_nanos=nanos,
            idempotency_key=f"{self.organization.pk} pays {self._number}",
            created_at=_moment(day),
        )
        payment_id = f"pi_{self.organization.pk}_{self._number}"
        self._tell(
            day,
            f"Acme pays ${dollars} by card, and Stripe confirms it",
            lambda at: payments.credit(
                self.payment, amount_nanos=nanos, provider_payment_id=payment_id, at=at
            ),
        )
        self.payment.refresh_from_db()

    def call(self, day: str, dollars: str) -> None:
        """A batch of calls is booked."""
        self._tell(
            day,
            f"Calls cost ${dollars}",
            lambda at: charges.post(
                {self.organization.pk: nanos_from_dollars(dollars)},
                journal="story",
                key=self._key(),
                at=at,
            ),
        )

    def expire(self, day: str) -> None:
        """The task that takes back promotions whose time is over."""
        self._tell(
            day, "The promotion is over; what is unspent of it is taken back", expiry.expire_lots
        )

    def correct(self, day: str, dollars: str, why: str) -> None:
        """Staff put a mistake right."""
        self._tell(
            day,
            why,
            lambda at: ledger.correct(
                self.organization,
                nanos_from_dollars(dollars),
                reason=why,
                idempotency_key=self._key(),
                at=at,
            ),
        )

    def ask_refund(self, day: str, dollars: str) -> None:
        """An owner asks for money back: it is held."""
        self._tell(
            day, f"Acme asks for ${dollars} back; it is held", lambda at: self._request(dollars, at)
        )

    def _request(self, dollars: str, at: datetime) -> None:
        assert self.payment is not None
        self.refund = refunds.request(
            self.payment, nanos_from_dollars(dollars), key=self._key(), reason="", by=None, at=at
        )

    def answer_refund(self, day: str, status: str, what: str) -> None:
        """Stripe says what became of the refund."""
        refund = self.refund
        assert refund is not None
        state = stripe_api.RefundState(
            f"re_{refund.pk}", status, refund.amount_nanos, "", refund.public_id, ""
        )
        self._tell(day, what, lambda at: refunds.apply(refund, state, at=at))

    def dispute(self, day: str) -> None:
        """The bank takes a payment back."""
        payment = self.payment
        assert payment is not None
        name = f"dp_{payment.pk}"
        self._tell(
            day,
            f"Acme's bank takes the payment of {format_dollars(payment.amount_nanos)} back",
            lambda at: refunds.open_dispute(payment, name, payment.amount_nanos, at=at),
        )

    def win_dispute(self, day: str) -> None:
        """The bank decides for us."""
        payment = self.payment
        assert payment is not None
        self._tell(
            day,
            "The bank decides for us; the payment comes back",
            lambda at: refunds.close_dispute(payment, f"dp_{payment.pk}", is_won=True, at=at),
        )

    def refuse(
        self, day: str, what: str, refusal: type[Exception], action: Callable[[], None]
    ) -> None:
        """What is not possible, and moves nothing."""
        try:
            action()
        except refusal:
            self._row(day, f"{what}: refused", "", "", "", "")
            return
        raise AssertionError(f"{what} was possible.")

    # --- What is told ---------------------------------------------------------------------------
    def title(self, text: str, intro: str) -> None:
        """Head of the story."""
        self.text.append(f"## {text}\n\n{intro}\n")

    def now(self, **expected: str) -> None:
        """What the organization has at this moment; the story ends here if it is not so."""
        balance = ledger.balance(self.organization)
        figures = {
            "available": balance.available_nanos,
            "held": balance.held_nanos,
            "promotional": grants.remaining_nanos(self.organization.pk),
            "owed": ledger.owed_nanos(self.organization.pk),
        }
        found = {name: format_dollars(figures[name]) for name in expected}
        assert found == {name: f"${dollars}" for name, dollars in expected.items()}
        said = ", ".join(f"{dollars} {name}" for name, dollars in found.items())
        self._is_in_table = False
        self.text.append(f"\nNow: {said}.\n")

    def close(self) -> None:
        """The trial balance, and proof that nothing was left out."""
        assert self.lines_told == Transfer.objects.filter(organization=self.organization).count()
        assert differences_besides_calls(self.organization) == []
        used = LedgerAccount.objects.filter(organization=self.organization).exclude(
            debits_posted_nanos=0, credits_posted_nanos=0
        )
        rows = [
            (account.get_kind_display(), account.debits_posted_nanos, account.credits_posted_nanos)
            for account in used.order_by("pk")
        ]
        total = ("**Total**", sum(row[1] for row in rows), sum(row[2] for row in rows))
        assert total[1] == total[2]
        self.text.append("Trial balance:\n\n| account | debits | credits |\n|---|---:|---:|")
        self.text += [
            f"| {name} | {format_dollars(debits)} | {format_dollars(credits)} |"
            for name, debits, credits in [*rows, total]
        ]
        self.text.append("")

    def _tell(self, day: str, what: str, action: Callable[[datetime], object]) -> None:
        """Do it, then print the lines it has added."""
        action(_moment(day))
        added = (
            Transfer.objects.filter(Q(organization=self.organization), pk__gt=self._latest_id)
            .select_related("debit_account", "credit_account")
            .annotate(promotional=Sum("grant_uses__amount_nanos"))
            .order_by("pk")
        )
        for line in added:
            self._row(
                day,
                what,
                line.debit_account.get_kind_display(),
                line.credit_account.get_kind_display(),
                format_dollars(line.amount_nanos),
                _remark(line, line.promotional),
            )
            day, what = "", ""
            self._latest_id = line.pk
            self.lines_told += 1
        assert not what, f"{what} moved nothing"

    def _row(self, *cells: str) -> None:
        if not self._is_in_table:
            self.text.append(HEAD)
            self._is_in_table = True
        self.text.append("".join(f"| {cell} " if cell else "| " for cell in cells) + "|")

    def _key(self) -> str:
        self._number += 1
        return f"story {self._number}"


def _remark(line: Transfer, promotional_nanos: int | None) -> str:
    """What the accounts do not say: a phase, and what of it a promotion has paid."""
    if line.phase != Transfer.Phase.POSTED:
        return line.get_phase_display().lower()
    if promotional_nanos:
        return f"{format_dollars(promotional_nanos)} of the promotion"
    return ""


def _moment(day: str) -> datetime:
    """Ten in the morning of a day such as `3 Jan`."""
    return datetime.strptime(f"{day} {YEAR}", "%d %b %Y").replace(tzinfo=UTC) + timedelta(hours=10)
