"""Request ids for Django views."""

from collections.abc import Awaitable, Callable

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse

from apps.core.context import HEADER, bind_request_id


class RequestIdMiddleware:
    """Binds the caller's `X-Request-ID` (or a new one) to the logs of the request and answers with it."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse | Awaitable[HttpResponse]]) -> None:
        self.get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponse | Awaitable[HttpResponse]:
        request_id = bind_request_id(request.headers.get(HEADER))
        if iscoroutinefunction(self.get_response):
            return self._answer_async(request, request_id)
        response = self.get_response(request)
        assert isinstance(response, HttpResponse)
        response[HEADER] = request_id
        return response

    async def _answer_async(self, request: HttpRequest, request_id: str) -> HttpResponse:
        answer = self.get_response(request)
        assert not isinstance(answer, HttpResponse)
        response = await answer
        response[HEADER] = request_id
        return response
