"""`application/problem+json` (RFC 9457), the one shape in which every process refuses.

`{type, title, status, detail, code, request_id?, ...}`; `code` is stable and for programs, `detail` is for people.
Unexpected exceptions never show their text to a client.
"""

from http import HTTPStatus
from typing import Any, Final

from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler
from rest_framework.views import set_rollback

from apps.core.context import current_request_id
from apps.core.errors import DomainError

CONTENT_TYPE: Final = "application/problem+json"


def problem(status_code: int, code: str, detail: str, **members: Any) -> dict[str, Any]:
    """The body of a problem. `members` are extension members such as `errors`."""
    body = {
        "type": f"urn:machpay:problem:{code}",
        "title": HTTPStatus(status_code).phrase,
        "status": status_code,
        "detail": detail,
        "code": code,
        **members,
    }
    request_id = current_request_id()
    if request_id is not None:
        body["request_id"] = request_id
    return body


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """DRF's exception handler: domain errors and DRF's own become problems; others stay 500s of Django's."""
    if isinstance(error, DomainError):
        set_rollback()
        headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
        return _response(problem(error.status, error.code, error.detail), headers)
    response = drf_exception_handler(error, context)
    if response is None:
        return None
    headers = {
        name: response[name]
        for name in ("WWW-Authenticate", "Retry-After", "Allow")
        if response.has_header(name)
    }
    if isinstance(error, exceptions.ValidationError):
        body = problem(response.status_code, "invalid", "Some fields are not valid.", errors=error.detail)
    else:
        body = problem(response.status_code, _code(error), _detail(error))
    return _response(body, headers)


def _code(error: Exception) -> str:
    if isinstance(error, Http404):
        return "not_found"
    if isinstance(error, exceptions.APIException):
        codes = error.get_codes()
        return codes if isinstance(codes, str) else error.default_code
    return "permission_denied"


def _detail(error: Exception) -> str:
    if isinstance(error, Http404):
        return "There is nothing here, or it is not yours."
    if isinstance(error, exceptions.APIException):
        return str(error.detail)
    return "You may not do this."


def _response(body: dict[str, Any], headers: dict[str, str]) -> Response:
    return Response(body, status=body["status"], headers=headers, content_type=CONTENT_TYPE)
