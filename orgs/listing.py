"""Long lists of console pages: page by page, and found by a part of the name.

Owns what the address says (`q`, `page`) and how many rows a page has. Must know nothing of what is
listed: pages narrow their own rows by `query_of`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest

ROWS_PER_PAGE = 50
QUERY_CHARACTERS_MAX = 120


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of a list, what was looked for, and the address of the list."""

    page: Page[Any]
    query: str
    url: str

    @property
    def rows(self) -> Sequence[Any]:
        """What is on this page."""
        return list(self.page.object_list)

    @property
    def is_whole(self) -> bool:
        """Everything is on this page: there is nothing to look for."""
        return not self.query and self.page.paginator.num_pages == 1

    @property
    def previous_url(self) -> str:
        """The page before; only where there is one."""
        return self._url_of(self.page.previous_page_number())

    @property
    def next_url(self) -> str:
        """The page after; only where there is one."""
        return self._url_of(self.page.next_page_number())

    def _url_of(self, number: int) -> str:
        named = {"q": self.query} if self.query else {}
        return f"{self.url}?{urlencode({**named, 'page': number})}"


def query_of(request: HttpRequest) -> str:
    """What is looked for, or ""; databases take no NUL."""
    return request.GET.get("q", "").replace("\0", "").strip()[:QUERY_CHARACTERS_MAX]


def of(request: HttpRequest, rows: "QuerySet[Any] | Sequence[Any]", url: str) -> Listing:
    """The page of these ordered rows that the address names; the last one, if it is beyond."""
    page = Paginator(rows, ROWS_PER_PAGE).get_page(request.GET.get("page", "1"))
    return Listing(page, query_of(request), url)
