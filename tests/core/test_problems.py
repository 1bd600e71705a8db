"""Refusals are problem documents with a stable code, and unexpected errors show nothing."""

import json

import pytest
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response

from apps.core.context import bind_request_id
from apps.core.errors import DomainError
from apps.core.problems import exception_handler


class OutOfPaper(DomainError):
    code = "out_of_paper"
    status = 507


def handled(error: Exception) -> Response:
    response = exception_handler(error, {})
    assert response is not None
    assert response.content_type == "application/problem+json"
    return response


def test_a_domain_error_keeps_its_code_status_and_retry():
    bind_request_id("abc-1")
    response = handled(OutOfPaper("the printer is empty", retry_after_s=9))

    assert (response.status_code, response.headers["Retry-After"]) == (507, "9")
    assert response.data == {
        "type": "urn:machpay:problem:out_of_paper",
        "title": "Insufficient Storage",
        "status": 507,
        "detail": "the printer is empty",
        "code": "out_of_paper",
        "request_id": "abc-1",
    }


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Http404("secret row 5"), 404, "not_found"),
        (exceptions.NotAuthenticated(), 401, "not_authenticated"),
        (exceptions.PermissionDenied(), 403, "permission_denied"),
        (exceptions.ParseError(), 400, "parse_error"),
        (exceptions.Throttled(wait=3), 429, "throttled"),
    ],
)
def test_rest_framework_errors_become_problems(error, status, code):
    response = handled(error)

    assert (response.status_code, response.data["status"], response.data["code"]) == (status, status, code)
    assert "secret" not in json.dumps(response.data)


def test_validation_errors_name_the_fields():
    response = handled(exceptions.ValidationError({"amount": ["too small"]}))

    assert (response.status_code, response.data["code"]) == (400, "invalid")
    assert response.data["errors"] == {"amount": ["too small"]}


def test_anything_else_is_left_to_django():
    assert exception_handler(RuntimeError("internal detail"), {}) is None
