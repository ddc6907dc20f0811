"""The end of a server that is asked to stop (SIGTERM, Ctrl-C) while it works on requests."""

import asyncio
from typing import Any

from fastapi.responses import JSONResponse

GRACE = 3
"""Seconds in which answers that are ready may still be sent."""


class ShutdownLimit:
    """ASGI middleware that ends requests which are in work when the server is asked to stop.

    vLLM ends its engine first (after ``--shutdown-timeout`` seconds, in which it completes requests). uvicorn would then
    wait without a limit for the answers, which never come.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            server = getattr(scope["app"].state, "server", None)
            if server is not None:  # uvicorn's server, which vLLM keeps there
                server.config.timeout_graceful_shutdown = GRACE
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_started = False

        async def send_noting(message: Any) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            await self.app(scope, receive, send_noting)
        except asyncio.CancelledError:  # uvicorn cancels what is in work at the end
            if has_started:
                raise
            await _stopped()(scope, receive, send)


def _stopped() -> JSONResponse:
    error = {"message": "the server is being stopped", "type": "ServiceUnavailableError", "param": None, "code": 503}
    return JSONResponse({"error": error}, status_code=503, headers={"connection": "close"})
