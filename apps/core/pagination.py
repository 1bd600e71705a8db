"""Cursor pagination: pages that stay right while rows are added, at a cost that does not grow with depth."""

from typing import Any

from rest_framework.pagination import CursorPagination
from rest_framework.response import Response


class CursorPages(CursorPagination):
    """`?limit=&cursor=` -> `{results, next, previous}`. A view sets `ordering` to a unique, indexed order."""

    page_size = 50
    max_page_size = 200
    page_size_query_param = "limit"

    def get_paginated_response(self, data: Any) -> Response:
        return Response({"results": data, "next": self.get_next_link(), "previous": self.get_previous_link()})
