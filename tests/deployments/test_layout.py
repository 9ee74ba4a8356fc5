"""Bundles as manifests, and mistakes in them as messages that say where."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployments import layout
from tests.deployments.zips import FUNCTION, config


def lay_out(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def refusal(folder: Path, files: dict[str, str]) -> str:
    with pytest.raises(layout.UnableToReadLayout) as refused:
        layout.read(lay_out(folder, files))
    return str(refused.value)


def test_a_site_with_functions_becomes_a_manifest(tmp_path: Path) -> None:
    files = {
        "config.json": config(
            {"src": "^/_next/(.*)$", "headers": {"cache-control": "max-age=1"}},
            {"handle": "filesystem"},
            {"src": "^/api/(?<rest>.*)$", "dest": "/functions/api", "status": 201},
            {"src": "^/(.*)$", "dest": "/static/$1.html"},
        ),
        "static/index.html": "hello",
        "functions/api.func/index.mjs": FUNCTION,
        "functions/default.func/index.cjs": FUNCTION,
        "functions/notes.txt": "not a function",
        ".env.production": "B=2\nA=1\n",
    }
    read = layout.read(lay_out(tmp_path, files))
    assert read.mode == "ssr"
    assert read.environment == {"A": "1", "B": "2"}
    assert read.manifest == {
        "version": 1,
        "mode": "ssr",
        "routes": [
            {"src": "^/_next/(.*)$", "headers": {"cache-control": "max-age=1"}},
            {"handle": "filesystem"},
            {"src": "^/api/(?<rest>.*)$", "dest": "/functions/api", "status": 201},
            {"src": "^/(.*)$", "dest": "/static/$1.html"},
        ],
        "functions": {
            "api": {"folder": "functions/api.func", "entry": "index.mjs"},
            "default": {"folder": "functions/default.func", "entry": "index.cjs"},
        },
        "static": True,
        "bundle_environment": ["A", "B"],
    }


def test_a_site_without_functions_is_static(tmp_path: Path) -> None:
    read = layout.read(lay_out(tmp_path, {"config.json": '\ufeff{"version": 1, "routes": []}'}))
    assert read.mode == "static"
    assert read.manifest["static"] is False
    assert read.manifest["functions"] == {}


def test_the_redirects_file_is_compiled_into_routes_at_the_end(tmp_path: Path) -> None:
    files = {
        "config.json": config({"handle": "filesystem"}),
        "static/_redirects": "# comment\n/old/page /new 302\n/blog/*  /posts/:splat\n"
        "/gone /404.html 404\n/out https://example.com/x 301\n\n/*  /index.html  200\n",
    }
    assert layout.read(lay_out(tmp_path, files)).manifest["routes"] == [
        {"handle": "filesystem"},
        {"src": "^/old/page/?$", "headers": {"location": "/new"}, "status": 302},
        {"src": "^/blog(?:/(.*))?$", "headers": {"location": "/posts/$1"}, "status": 301},
        {"src": "^/gone/?$", "dest": "/static/404.html", "status": 404},
        {"src": "^/out/?$", "headers": {"location": "https://example.com/x"}, "status": 301},
        {"src": "^/.*$", "dest": "/static/index.html", "status": 200},
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("/a", "expected '/from  /to  200'"),
        ("/a /b 200 more", "expected"),
        ("/a /b 999", "the status must be one of"),
        ("/a /b 200!!", "the status must be one of"),
        ("/a //evil.example 301", "must start with '/'"),
        ("/a id=:id /b/:id 301", "conditions"),
        ("/a /b 302 Country=de", "conditions"),
        ("/a/:x /b/:y", "no ':y'"),
        ("/:x/:x /b", "each name once"),
        ("/" + "/".join(f":p{number}" for number in range(10)) + " /b", "9 placeholders"),
        ("/a b 200", "must start with '/'"),
        ("/a https://example.com 200", "must start with '/'"),
        ("/a/*/b /c 200", "may only end"),
        ("/a /../b 200", "'..'"),
        ("/a /:splat 200", "no ':splat'"),
        ("/a /é 301", "percent-encoded"),
    ],
)
def test_mistakes_in_redirects_name_the_line(line: str, problem: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, {"config.json": config(), "static/_redirects": f"# one\n{line}\n"})
    assert message.startswith("static/_redirects line 2:")
    assert problem in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be an object"),
        ('{"routes": []}', '"version" must be the number 1'),
        ('{"version": 2, "routes": []}', '"version" must be the number 1'),
        ('{"version": true, "routes": []}', '"version" must be the number 1'),
        ('{"version": 1}', '"routes" must be a list'),
        ('{"version": 1, "routes": {}}', '"routes" must be a list'),
        ("[" * 100_000, "nested too deeply"),
        ('{"version": ' + "9" * 5000 + "}", "huge number"),
    ],
)
def test_mistakes_in_the_config_are_named(text: str, problem: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, {"config.json": text})
    assert "config.json" in message
    assert problem in message


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    assert "no config.json at its top" in refusal(tmp_path, {"static/index.html": "x"})


def test_a_zip_of_the_folder_around_is_recognised(tmp_path: Path) -> None:
    assert "inside the folder 'dist'" in refusal(tmp_path, {"dist/config.json": config()})


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        ("text", "must be an object"),
        ({}, '"src" must be a regular expression'),
        ({"handle": "miss"}, 'the only "handle"'),
        ({"src": 1, "dest": "/static/x"}, '"src" must be a regular expression'),
        ({"src": "^/(", "dest": "/static/x"}, "not a valid regular expression"),
        ({"src": "a" * 3000, "dest": "/static/x"}, "longer than 2,000"),
        ({"src": "^/\0", "dest": "/static/x"}, "control character"),
        ({"src": "^/\ud800", "dest": "/static/x"}, "half a character"),
        ({"src": "^/$"}, 'needs a "dest" or "headers"'),
        ({"src": "^/$", "dest": 1}, '"dest" must be text'),
        ({"src": "^/$", "dest": "/elsewhere"}, '"dest" must start with'),
        ({"src": "^/$", "dest": "/static/../config.json"}, '".."'),
        ({"src": "^/$", "dest": "/static/$1"}, 'uses $1, but "src" has 0 group(s)'),
        (
            {"src": "^/$", "dest": "/functions/missing"},
            "no function 'missing'; the bundle has: api, default",
        ),
        ({"src": "^/$", "dest": "/static/x", "status": "200"}, '"status" must be'),
        ({"src": "^/$", "dest": "/static/x", "status": 99}, '"status" must be'),
        ({"src": "^/$", "headers": []}, '"headers" must be an object'),
        ({"src": "^/$", "headers": {"a b": "x"}}, "not a header name"),
        ({"src": "^/$", "headers": {"x-a": 1}}, "header x-a must be text"),
        ({"src": "^/$", "headers": {"x-a": "b\r\nset-cookie: c"}}, "no header can hold"),
        ({"src": "^/$", "headers": {"Transfer-Encoding": "x"}}, "set by the server"),
        ({"src": "^/$", "dest": "/static/x", "methods": ["GET"]}, '"methods" is not supported'),
    ],
)
def test_mistakes_in_routes_name_the_index(route: Any, problem: str, tmp_path: Path) -> None:
    files = {
        "config.json": json.dumps({"version": 1, "routes": [{"handle": "filesystem"}, route]}),
        "functions/api.func/index.js": FUNCTION,
        "functions/default.func/index.js": FUNCTION,
    }
    message = refusal(tmp_path, files)
    assert message.startswith("config.json: routes[1]: ")
    assert problem in message


def test_a_function_without_entry_is_named(tmp_path: Path) -> None:
    files = {"config.json": config(), "functions/api.func/main.js": FUNCTION}
    assert refusal(tmp_path, files).startswith("functions/api.func has no entry file")


def test_a_function_with_an_unusable_name_is_named(tmp_path: Path) -> None:
    files = {"config.json": config(), "functions/a b.func/index.js": FUNCTION}
    assert refusal(tmp_path, files).startswith("functions/a b.func: ")


def test_an_unreadable_environment_file_is_named(tmp_path: Path) -> None:
    files = {"config.json": config(), ".env.production": "A=1\nnonsense\n"}
    assert refusal(tmp_path, files) == ".env.production line 2: expected KEY=VALUE."
