"""Providers' exports are read in their own forms, and bad ones refused by line and column."""

import json
from datetime import date

import pytest

from billing import exports
from billing.exports import ExportRow, UnableToReadExport

FIRST = date(2025, 10, 5)

# The columns of the dashboard's export, one row per bucket of time.
OPENAI_CSV = """\
start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,api_key_id,\
model,batch,service_tier,input_tokens,output_tokens,input_cached_tokens,input_uncached_tokens,\
input_text_tokens,output_text_tokens,input_cached_text_tokens,input_audio_tokens,\
input_cached_audio_tokens,output_audio_tokens,input_image_tokens,input_cached_image_tokens,\
output_image_tokens
1759622400,1759708800,2025-10-05T00:00:00+00:00,2025-10-06T00:00:00+00:00,,3,,,gpt-4o-2024-08-06,,\
,1000,200,400,600,1000,200,400,0,0,0,0,0,0
1759708800,1759795200,2025-10-06T00:00:00+00:00,2025-10-07T00:00:00+00:00,,,,,,,,,,,,,,,,,,,,
"""


def openai_page(**result):
    return {
        "object": "page",
        "data": [
            {
                "object": "bucket",
                "start_time": 1759622400,
                "end_time": 1759708800,
                "results": [
                    {
                        "object": "organization.usage.completions.result",
                        "input_tokens": 1000,
                        "output_tokens": 200,
                        "input_cached_tokens": 400,
                        "input_audio_tokens": None,
                        "num_model_requests": 3,
                        "model": "gpt-4o-2024-08-06",
                        **result,
                    }
                ],
            }
        ],
        "has_more": False,
        "next_page": None,
    }


ANTHROPIC = {
    "data": [
        {
            "starting_at": "2025-10-05T00:00:00Z",
            "ending_at": "2025-10-06T00:00:00Z",
            "results": [
                {
                    "uncached_input_tokens": 1500,
                    "cache_creation": {
                        "ephemeral_1h_input_tokens": 1000,
                        "ephemeral_5m_input_tokens": 500,
                    },
                    "cache_read_input_tokens": 200,
                    "output_tokens": 500,
                    "server_tool_use": {"web_search_requests": 10},
                    "model": "claude-sonnet-4-5-20250929",
                }
            ],
        }
    ],
    "has_more": False,
    "next_page": None,
}

GOOGLE_CSV = """\
Invoice number,1234567890
Invoice date,2025-10-31
Due date,2025-11-30
Billing ID,0000-0000-0000
Billing account ID,0A0A0A-0B0B0B-0C0C0C
Currency,USD
Currency exchange rate,1
Total amount due,$5.72
Billing account name,Billing account ID,Project name,Project ID,Project hierarchy,\
Service description,Service ID,SKU description,SKU ID,Consumption model description,Credit type,\
Cost type,Usage start date,Usage end date,Usage amount,Usage unit,Unrounded Cost ($),Cost ($)
Acme,0A,app,app,acme,Gemini API,S1,Generate content input token count gemini 3 flash short input \
text,K1,Default,,Usage,2025-10-01,2025-10-31,"20,122,880",count,10.06144,10.06
Acme,0A,app,app,acme,Gemini API,S1,Generate content output token count for Gemini 3 Flash,K2,\
Default,,Usage,2025-10-01,2025-10-31,"46,546",count,0.139638,0.14
Acme,0A,app,app,acme,Gemini API,S1,Cached content token count Gemini 9 Ultra,K3,\
Default,,Usage,2025-10-01,2025-10-31,7,count,0.000001,0.00
Acme,0A,app,app,acme,BigQuery,S2,Analysis,K4,Default,,Usage,2025-10-01,2025-10-31,5,count,60.0,60.00
"""


def test_openais_api_and_csv_say_the_same():
    amounts = {"calls": 3, "all_input": 1000, "all_cached": 400, "all_output": 200}
    row = ExportRow(FIRST, FIRST, "gpt-4o-2024-08-06", amounts)
    assert exports.read(json.dumps(openai_page()), "openai").rows == [row]
    (from_csv,) = exports.read(OPENAI_CSV, "openai").rows
    assert from_csv == ExportRow(
        FIRST,
        FIRST,
        "gpt-4o-2024-08-06",
        {**amounts, "all_audio_input": 0, "audio_output": 0},
    )


def test_pages_come_as_a_list_and_the_last_one_must_be_there():
    pages = [openai_page() | {"has_more": True}, openai_page()]
    assert len(exports.read(json.dumps(pages), "openai").rows) == 2
    with pytest.raises(UnableToReadExport, match="further pages exist"):
        exports.read(json.dumps(pages[:1]), "openai")


def test_anthropics_buckets_are_ours():
    (row,) = exports.read(json.dumps(ANTHROPIC), "anthropic").rows
    assert (row.first, row.model) == (FIRST, "claude-sonnet-4-5-20250929")
    assert row.amounts == {
        "input": 1500,
        "cache_read": 200,
        "cache_write": 500,
        "cache_write_1h": 1000,
        "output": 500,
    }


def test_googles_skus_name_model_and_kind_in_words():
    export = exports.read(GOOGLE_CSV, "google", models=["gemini-3", "gemini-3-flash"])
    month = (date(2025, 10, 1), date(2025, 10, 31))
    assert export.rows == [
        ExportRow(*month, "gemini-3-flash", {"input": 20_122_880, "cost": 10_061_440_000}),
        ExportRow(*month, "gemini-3-flash", {"output": 46_546, "cost": 139_638_000}),
        ExportRow(
            *month, "Cached content token count Gemini 9 Ultra", {"cache_read": 7, "cost": 1000}
        ),
    ]
    assert export.notes == ["1 row(s) of other services were left out."]


def test_costs_in_another_currency_are_not_compared():
    export = exports.read(GOOGLE_CSV.replace("Currency,USD", "Currency,AUD"), "google")
    assert "Costs are not compared: the export is not in US dollars." in export.notes
    assert all("cost" not in row.amounts for row in export.rows)


def test_any_csv_is_read_by_its_columns_names():
    text = '\ufeffDate,Name,In,Out,USD\n2025-10-05,m,"1,000",2,0.0000000015\n'
    columns = {"day": "Date", "model": "Name", "all_input": "In", "output": "Out", "cost": "USD"}
    assert exports.read(text, "csv", columns=columns).rows == [
        ExportRow(FIRST, FIRST, "m", {"all_input": 1000, "output": 2, "cost": 2})
    ]


@pytest.mark.parametrize(
    ("text", "form", "message"),
    [
        (
            OPENAI_CSV.replace(",1000,200", ",12x,200"),
            "openai",
            "line 2, column input_tokens: '12x",
        ),
        (OPENAI_CSV.replace(",1000,200", ",-5,200"), "openai", "line 2, column input_tokens: '-5'"),
        (OPENAI_CSV.replace(",1000,200", ",1.5,200"), "openai", "'1.5' is not a whole number"),
        (OPENAI_CSV.replace("1759622400,", "soon,"), "openai", "line 2, column start_time: 'soon'"),
        (OPENAI_CSV.replace("gpt-4o-2024-08-06", ""), "openai", "line 2, column model: missing"),
        (OPENAI_CSV.replace("model,batch", "name,batch"), "openai", "line 1: there is no column"),
        (OPENAI_CSV + "1,2\n", "openai", "line 4: 2 columns, the header has 24"),
        (OPENAI_CSV + '"unclosed', "openai", "line 4: "),
        ("", "openai", "line 1: there is no header"),
        (OPENAI_CSV.replace(",1000,200", ",1E999999,200"), "openai", "'1E999999' is not a whole"),
        (OPENAI_CSV.replace("model,batch", "model,model"), "openai", "line 1: .* two columns 'mod"),
        ("[" * 100_000, "openai", "The file cannot be read as JSON"),
        ('{"data": [' + "9" * 5000 + "]}", "openai", "The file cannot be read as JSON"),
        (json.dumps(openai_page(model=None)), "openai", r"data\[0\]\.results\[0\]\.model: missing"),
        (json.dumps(openai_page(input_tokens="x")), "openai", r"results\[0\]\.input_tokens: 'x'"),
        (json.dumps(openai_page(input_tokens=True)), "openai", "True is not a whole number"),
        ('{"data": [\n {"results": ]}', "openai", "line 2, column 14: Expecting value"),
        ("[]x", "anthropic", "line 1, column 3: Extra data"),
        ('{"error": "no"}', "anthropic", "data: there is no list of buckets"),
        ('{"data": [{}]}', "anthropic", r"data\[0\]\.results: there is no list"),
        ('{"data": [{"results": []}]}', "anthropic", r"data\[0\]\.starting_at: None"),
        (GOOGLE_CSV.replace("SKU description", "SKU"), "google", "no header with 'SKU desc"),
        (
            GOOGLE_CSV.replace("Usage amount", "Amount"),
            "google",
            "line 9: .* column 'Usage amount'",
        ),
        (GOOGLE_CSV.replace("0.139638", "free"), "google", "line 11, column Unrounded Cost"),
    ],
)
def test_a_bad_file_is_refused_by_its_place(text, form, message):
    with pytest.raises(UnableToReadExport, match=message):
        exports.read(text, form)
