"""reconcile_provider: agreement is silent, every difference is named on its side of the table."""

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command

from billing.models import Reconciliation
from billing.pricing import Usage
from tests import factories
from tests.billing.test_exports import ANTHROPIC, GOOGLE_CSV, OPENAI_CSV, openai_page

pytestmark = pytest.mark.django_db

NOON = datetime(2025, 10, 5, 12, tzinfo=UTC)


@pytest.fixture
def call(organization):
    """A call that was served by a provider's model, three dollars a million tokens."""
    factories.make_credit(organization=organization, nanos=100_000_000_000)
    prices = {}

    def make(provider, served, used, *, at=NOON, **fields):
        if (provider, served) not in prices:
            prices[provider, served] = factories.make_price(
                provider=provider,
                model=served,
                input_nanos=3_000_000_000,
                output_nanos=3_000_000_000,
            )
        return factories.make_call(
            organization=organization,
            price=prices[provider, served],
            usage=used,
            started_at=at,
            hold_nanos=2_000_000_000,
            **fields,
        )

    return make


@pytest.fixture
def three_calls(call):
    """What the OpenAI export says: 1,000 input tokens, 400 of them cached, 200 output, 3 calls."""
    call("openai", "gpt-4o-2024-08-06", Usage(input=600, output=100))
    call("openai", "gpt-4o-2024-08-06", Usage(cache_read=400))
    call("openai", "gpt-4o-2024-08-06", Usage(output=100))


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command over a file with this text: exit status, standard output and error."""

    def reconcile(provider, text, *arguments):
        path = tmp_path / "usage.export"
        path.write_text(text)
        status = 0
        try:
            call_command("reconcile_provider", provider, str(path), *arguments)
        except SystemExit as exit_:
            status = exit_.code
        out, err = capsys.readouterr()
        return status, out, err

    return reconcile


def test_agreement_is_said_and_kept(three_calls, run):
    status, out, err = run("openai", OPENAI_CSV)
    assert (status, err) == (0, "")
    assert "Our records agree with the provider's." in out
    kept = Reconciliation.objects.get()
    assert (kept.provider, kept.file_name, kept.rows_off) == ("openai", "usage.export", 0)
    assert (kept.first_day, kept.last_day) == (date(2025, 10, 5), date(2025, 10, 5))
    assert kept.rows_compared == 6
    assert len(kept.file_sha256) == 64
    assert kept.ran_by


def test_a_difference_is_shown_with_both_amounts_and_fails(three_calls, call, run):
    call("openai", "gpt-4o-2024-08-06", Usage(input=100))
    status, out, err = run("openai", json.dumps(openai_page()))
    assert status == 1
    (line,) = [line for line in out.splitlines() if "all input" in line]
    assert line.split()[1:3] == ["2025-10-05", "gpt-4o-2024-08-06"]
    assert line.startswith("*")
    assert " ".join(line.split()).endswith(" all input 1,100 1,000 10 %")
    assert "2 of 4 amounts differ by more than 1 %." in err
    kept = Reconciliation.objects.get()
    assert kept.rows_off == 2
    assert kept.result["off"][0] == {
        "from": "2025-10-05",
        "to": "2025-10-05",
        "model": "gpt-4o-2024-08-06",
        "quantity": "all_input",
        "ours": 1100,
        "theirs": 1000,
        "percent": "10.000",
    }


def test_what_is_tolerated_does_not_fail(three_calls, call, run):
    call("openai", "gpt-4o-2024-08-06", Usage(input=100))
    assert run("openai", json.dumps(openai_page()), "--tolerance", "33.4")[0] == 0
    assert Reconciliation.objects.get().tolerance_percent == Decimal("33.4")


def test_models_and_days_of_one_side_alone_are_named(three_calls, call, run):
    call("openai", "o9", Usage(input=7))  # its answers call themselves smollm2-135m
    page = openai_page()
    page["data"][0]["results"].append({"model": "dall-e", "num_model_requests": 2})
    status, out, _ = run("openai", json.dumps(page))
    assert status == 1
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "* 2025-10-05 dall-e calls none 2 100 %" in lines
    assert "* 2025-10-05 smollm2-135m all input 7 none 100 %" in lines


def test_days_outside_the_period_are_left_alone_on_both_sides(three_calls, call, run):
    call("openai", "gpt-4o-2024-08-06", Usage(input=7), at=NOON + timedelta(days=1))
    assert run("openai", OPENAI_CSV)[0] == 0
    assert run("openai", OPENAI_CSV, "--to", "2025-10-06")[0] == 1
    page = openai_page()
    page["data"].append({**page["data"][0], "start_time": 1759708800})
    assert run("openai", json.dumps(page), "--to", "2025-10-05")[0] == 0


def test_refusals_and_other_providers_are_in_nobodys_bill(three_calls, call, run):
    call("openai", "gpt-4o-2024-08-06", None, status="REFUSED")
    call("azure", "gpt-4o-2024-08-06", Usage(input=5))
    assert run("openai", OPENAI_CSV)[0] == 0


def test_a_model_may_be_named_as_it_was_asked_for(three_calls, run):
    # Our records say smollm2-135m was served and gpt-4o-2024-08-06 was asked for upstream.
    assert run("openai", OPENAI_CSV)[0] == 0


def test_anthropics_report_is_compared_bucket_by_bucket(call, run):
    used = Usage(input=1500, cache_read=200, cache_write=500, cache_write_1h=1000, output=500)
    call("anthropic", "claude-sonnet-4-5-20250929", used)
    assert run("anthropic", json.dumps(ANTHROPIC))[0] == 0
    call("anthropic", "claude-sonnet-4-5-20250929", Usage(cache_write_1h=100))
    status, out, _ = run("anthropic", json.dumps(ANTHROPIC))
    assert status == 1
    assert [line.split()[3:] for line in out.splitlines() if line.startswith("*")] == [
        ["cache", "write", "1h", "1,100", "1,000", "10", "%"]
    ]


def test_googles_month_and_cost_are_compared_in_its_own_days(call, run):
    text = GOOGLE_CSV.replace('"20,122,880"', "1000000").replace("10.06144", "3.0")
    text = "\n".join(line for line in text.splitlines() if "9 Ultra" not in line)
    text = text.replace('"46,546"', "0").replace("0.139638", "0")
    call("google", "gemini-3-flash", Usage(input=400_000), at=datetime(2025, 10, 1, 7, tzinfo=UTC))
    call("google", "gemini-3-flash", Usage(input=600_000), at=datetime(2025, 11, 1, 6, tzinfo=UTC))
    # In UTC this is October already, in Los Angeles still September.
    call("google", "gemini-3-flash", Usage(input=9), at=datetime(2025, 10, 1, 6, tzinfo=UTC))
    status, out, _ = run("google", text)
    assert status == 0, out
    assert "2025-10-01–2025-10-31  gemini-3-flash  cost" in out
    assert run("google", text, "--timezone", "UTC")[0] == 1


def test_the_cost_compared_is_without_margin(call, run):
    record = call("acme", "m", Usage(input=1_000_000))
    assert record.cost_nanos == 3_000_000_000
    text = "day,model,dollars\n2025-10-05,m,3.00\n"
    columns = [f"--column={name}" for name in ("day=day", "model=model", "cost=dollars")]
    assert run("acme", text, *columns)[0] == 0
    assert run("acme", text.replace("3.00", "3.10"), *columns)[0] == 1


def test_json_has_every_line_and_the_ones_that_are_off(three_calls, run):
    status, out, _ = run("openai", json.dumps(openai_page(output_tokens=400)), "--json")
    shown = json.loads(out)
    assert status == 1
    assert len(shown["lines"]) == 4
    assert [(line["quantity"], line["percent"]) for line in shown["off"]] == [
        ("all_output", "50.000")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tolerance", "much"), "give a percentage like 1 or 0.5"),
        (("--from", "now"), "'now' is not a date like 2026-01-31"),
        (("--from", "2025-10-06"), "There is no day from 2025-10-06 to 2025-10-05"),
        (("--timezone", "Mars/Base"), "'Mars/Base' is no time zone"),
        (("--timezone", "Asia/Kolkata"), "Days of Asia/Kolkata begin within an hour"),
        (("--column", "day=x"), "--column belongs to --format csv"),
        (("--format", "csv"), "needs --column day"),
        (("--format", "csv", "--column", "what=x"), "--column what=x: give one of"),
        (("--format", "anthropic"), "usage.export: line 1, column 1: Expecting value"),
    ],
)
def test_a_wrong_argument_says_what_is_wanted(run, arguments, message):
    with pytest.raises(CommandError, match=message):
        run("openai", OPENAI_CSV, *arguments)
    assert not Reconciliation.objects.exists()


def test_a_missing_or_empty_file_is_named(run, tmp_path):
    with pytest.raises(CommandError, match=r"missing\.csv cannot be read: No such file"):
        call_command("reconcile_provider", "openai", str(tmp_path / "missing.csv"))
    with pytest.raises(CommandError, match="there is no row of usage in it"):
        run("openai", '{"data": []}')
