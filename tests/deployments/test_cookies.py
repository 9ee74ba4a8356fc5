"""A site and its visitors exchange the site's own cookies and no others."""

from typing import Any

from deployments import cookies


def test_the_consoles_cookies_never_reach_a_site() -> None:
    header = "a=1; sessionid=secret; csrftoken=s; __Host-session=s; __Host-csrf=s; b=2"
    sent = [("cookie", header), ("x-kept", "1"), ("cookie", "sessionid=secret")]
    assert cookies.of_the_site(sent) == [("cookie", "a=1; b=2"), ("x-kept", "1")]


def test_a_cookie_stays_on_its_own_host() -> None:
    headers = [
        ("set-cookie", "a=1; Domain=localhost; Path=/"),
        ("set-cookie", "sessionid=forged"),
        ("set-cookie", "b=2;domain = .localhost;Secure"),
        ("x-kept", "Domain=localhost"),
    ]
    assert cookies.for_own_host(headers) == [
        ("set-cookie", "a=1; Path=/"),
        ("set-cookie", "b=2;Secure"),
        ("x-kept", "Domain=localhost"),
    ]


def test_cookies_the_settings_name_are_the_consoles(settings: Any) -> None:
    settings.SESSION_COOKIE_NAME = "console-session"
    settings.CSRF_COOKIE_NAME = "console-csrf"
    settings.LANGUAGE_COOKIE_NAME = "console-language"
    header = "console-session=s; console-csrf =s; console-language=s; messages=s; sessions=mine"
    assert cookies.of_the_site([("cookie", header)]) == [("cookie", "sessions=mine")]
    set_by_site = [("set-cookie", each) for each in ("console-session=x", "messages=m", "mine=1")]
    assert cookies.for_own_host(set_by_site) == [("set-cookie", "mine=1")]
