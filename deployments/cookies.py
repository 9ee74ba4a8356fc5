"""Which cookies pass between a site and its visitors: the site's own, on its own host.

The console may share a domain with sites. Its cookies never reach a site, and no site sets any of
their names or any for a host besides its own. Must not know what a site does with cookies.
"""

from collections.abc import Iterable

from django.conf import settings
from django.contrib.messages.storage.cookie import CookieStorage

# What the console's cookies are called on http and on https: browsers keep those of yesterday.
CONSOLE_COOKIES = frozenset(
    {"sessionid", "csrftoken", "__Host-session", "__Host-csrf", CookieStorage.cookie_name}
)

Headers = list[tuple[str, str]]


def _is_consoles(cookie: str) -> bool:
    """Whether a cookie is one of the console's: of log-in, forms, notices or language.

    A browser may send them to a site on a sibling domain. allauth keeps all in Django's session.
    """
    name = cookie.split("=")[0].strip()
    return name in CONSOLE_COOKIES or name in {
        settings.SESSION_COOKIE_NAME,
        settings.CSRF_COOKIE_NAME,
        settings.LANGUAGE_COOKIE_NAME,
    }


def of_the_site(headers: Iterable[tuple[str, str]]) -> Headers:
    """A request's `headers` (names in lower case) without the console's cookies."""
    kept: Headers = []
    for name, value in headers:
        if name == "cookie":
            cookies = (cookie.strip() for cookie in value.split(";"))
            value = "; ".join(each for each in cookies if each and not _is_consoles(each))
            if not value:
                continue
        kept.append((name, value))
    return kept


def for_own_host(headers: Iterable[tuple[str, str]]) -> Headers:
    """A response's `headers` (names in lower case) with Set-Cookie only for the site's own host.

    Without Domain a cookie stays on the host that set it (RFC 6265, 5.3); with it, a site would set
    cookies for its neighbours and for a console on the domain above. The console's names are left
    out: where the host is shared, they would log somebody in or out.
    """
    return [
        (name, _without_domain(value) if name == "set-cookie" else value)
        for name, value in headers
        if not (name == "set-cookie" and _is_consoles(value.split(";")[0]))
    ]


def _without_domain(cookie: str) -> str:
    first, *attributes = cookie.split(";")
    kept = [each for each in attributes if each.split("=")[0].strip().lower() != "domain"]
    return ";".join([first, *kept])
