"""Paths arrive where the manifest's routes say."""

from pathlib import Path

import pytest

from deployments import layout
from deployments.routing import Kind, Match, Router, UnableToRoute

FILES = {"index.html", "about/index.html", "logo.svg", "404.html"}
FILESYSTEM = {"handle": "filesystem"}


def route(routes: list, path: str, files: set = FILES) -> Match:
    return Router(routes).match(path, files.__contains__)


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("/", "index.html"),
        ("/about", "about/index.html"),
        ("/about/", "about/index.html"),
        ("/logo.svg", "logo.svg"),
    ],
)
def test_the_filesystem_serves_files_and_the_index_of_folders(path: str, file: str) -> None:
    assert route([FILESYSTEM], path) == Match(Kind.STATIC, file)


def test_a_file_is_not_a_folder() -> None:
    assert route([FILESYSTEM], "/logo.svg/").kind == Kind.NOT_FOUND


def test_routes_are_tried_in_order() -> None:
    api = {"src": "^/api/.*$", "dest": "/functions/api"}
    everything = {"src": "^/.*$", "dest": "/functions/default"}
    assert route([FILESYSTEM, api, everything], "/logo.svg").kind == Kind.STATIC
    assert route([FILESYSTEM, api, everything], "/api/users").target == "api"
    assert route([FILESYSTEM, api, everything], "/other").target == "default"
    assert route([everything, FILESYSTEM], "/logo.svg").target == "default"


def test_a_pattern_matches_the_whole_path() -> None:
    assert route([{"src": "/api", "dest": "/functions/api"}], "/api/users").kind == Kind.NOT_FOUND


def test_captures_are_used_in_the_destination() -> None:
    routes = [{"src": "^/(fn|job)/(.*)$", "dest": "/functions/$1"}]
    assert route(routes, "/job/7").target == "job"
    routes = [{"src": "^/pages/(.*)$", "dest": "/static/$1/index.html"}]
    assert route(routes, "/pages/about").target == "about/index.html"


def test_a_capture_that_took_no_part_is_empty() -> None:
    assert route([{"src": "^/(x)?.*$", "dest": "/functions/a$1$7"}], "/y").target == "a"


def test_header_routes_accumulate_and_go_on() -> None:
    match = route(
        [
            {"src": "^/.*$", "headers": {"X-One": "1", "X-Two": "2"}},
            {"src": "^/logo.*$", "headers": {"x-two": "3"}},
            {"src": "^/other$", "headers": {"x-four": "4"}},
            FILESYSTEM,
        ],
        "/logo.svg",
    )
    assert match == Match(Kind.STATIC, "logo.svg", 200, (("x-one", "1"), ("x-two", "3")))


def test_a_single_page_app_falls_back_to_its_index() -> None:
    fallback = {"src": "^/.*$", "dest": "/static/index.html", "status": 200}
    assert route([FILESYSTEM, fallback], "/any/where") == Match(Kind.STATIC, "index.html")


def test_a_destination_file_that_does_not_exist_is_no_match() -> None:
    routes = [
        {"src": "^/.*$", "dest": "/static/gone.html"},
        {"src": "^/.*$", "dest": "/functions/f"},
    ]
    assert route(routes, "/x").target == "f"


def test_nothing_matching_is_the_apps_own_not_found_page() -> None:
    assert route([FILESYSTEM], "/nope") == Match(Kind.NOT_FOUND, "404.html", 404)
    assert route([FILESYSTEM], "/nope", {"index.html"}) == Match(Kind.NOT_FOUND, "", 404)


def test_a_status_with_a_location_redirects() -> None:
    routes = [{"src": "^/old/(.*)$", "status": 308, "headers": {"Location": "/new/$1"}}]
    assert route(routes, "/old/a") == Match(Kind.REDIRECT, "", 308, (("location", "/new/a"),))


def test_a_pattern_that_never_ends_is_stopped() -> None:
    with pytest.raises(UnableToRoute, match="takes too long"):
        route([{"src": "^/(a|aa)+$", "dest": "/functions/f"}], "/" + "a" * 2000 + "!")


def test_a_path_of_absurd_length_is_refused() -> None:
    with pytest.raises(UnableToRoute, match="longer than 2048"):
        route([FILESYSTEM], "/" + "a" * 2048)


def test_an_invalid_pattern_is_named() -> None:
    with pytest.raises(UnableToRoute, match=r"'\^/\('"):
        Router([{"src": "^/(", "dest": "/functions/f"}])


REDIRECTS = """
/news/:year/:month/:slug   /blog/:slug/:month-:year
/shop/*                    /closed.html           404
/app/*                     /app/index.html        200
/docs/*                    https://docs.example.com:8080/v2/:splat  302
/logo.svg                  /new.svg               200!
/about                     /about/                301
/contact                   /form#top
/u/:id/*                   /people/:id/:splat     307
"""


@pytest.mark.parametrize(
    ("path", "kind", "status", "target"),
    [
        ("/news/2004/02/my-story", Kind.REDIRECT, 301, "/blog/my-story/02-2004"),
        ("/news/2004/02/my-story/", Kind.REDIRECT, 301, "/blog/my-story/02-2004"),
        ("/news/2004/02", Kind.NOT_FOUND, 404, ""),
        ("/news/2004/02/a/b", Kind.NOT_FOUND, 404, ""),
        ("/shop/shoes", Kind.STATIC, 404, "closed.html"),
        ("/app", Kind.STATIC, 200, "app/index.html"),
        ("/app/", Kind.STATIC, 200, "app/index.html"),
        ("/app/deep/er", Kind.STATIC, 200, "app/index.html"),
        ("/apple", Kind.NOT_FOUND, 404, ""),
        ("/docs", Kind.REDIRECT, 302, "https://docs.example.com:8080/v2/"),
        ("/docs/a/b c", Kind.REDIRECT, 302, "https://docs.example.com:8080/v2/a/b%20c"),
        ("/logo.svg", Kind.STATIC, 200, "new.svg"),
        ("/about", Kind.REDIRECT, 301, "/about/"),
        ("/about/", Kind.STATIC, 200, "about/index.html"),
        ("/contact/", Kind.REDIRECT, 301, "/form#top"),
        ("/u/7/x/y", Kind.REDIRECT, 307, "/people/7/x/y"),
    ],
)
def test_rules_of_a_redirects_file_lead_where_netlifys_documentation_says(
    tmp_path: Path, path: str, kind: Kind, status: int, target: str
) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "_redirects").write_text(REDIRECTS)
    (tmp_path / "config.json").write_text('{"version": 1, "routes": [{"handle": "filesystem"}]}')
    routes = layout.read(tmp_path).manifest["routes"]
    files = {"closed.html", "app/index.html", "logo.svg", "new.svg"}
    # /about/index.html exists for its own page alone, or its folder would win over the rule.
    match = route(routes, path, files | ({"about/index.html"} if path == "/about/" else set()))
    assert (match.kind, match.status) == (kind, status)
    assert target == (match.target or dict(match.headers).get("location", ""))
