"""The route ``POST /v1/meta_actions`` of a vLLM server (entry point ``vllm.endpoint_plugins``), and the limit of bodies."""

import json
import os
import uuid
from argparse import Namespace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from vllm.entrypoints.serve.utils.api_utils import with_cancellation
from vllm.exceptions import VLLMNotFoundError, VLLMValidationError

from senna.errors import DataError
from senna.serve.decision import served_decision
from senna.serve.protocol import read_request, response
from senna.serve.refusal import refusal
from senna.serve.renderer import SennaRenderer
from senna.serve.scoring import EngineScorer
from senna.serve.shutdown import ShutdownLimit
from senna.templates import load_templates

PATH = "/v1/meta_actions"
_NO_SENNA = "the served model is not a Senna"
MOST_BODY = 64 << 20
"""Bytes of a request. Six camera images have 1 to 20 MB."""
_MOST_DROPPED = 8 * MOST_BODY  # bytes of a refused request that are read and dropped


class MetaActionRoute:
    """The endpoint plug-in."""

    name = "senna"
    required_tasks = ("generate",)

    def attach_router(self, app: FastAPI) -> None:
        """Add the route, the limit of bodies and that of the time to stop."""
        app.add_middleware(BodyLimit)
        app.add_middleware(ShutdownLimit)
        app.post(PATH)(_answer_route)
        app.get(PATH)(_decision_route)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Prepare the scorer, if this server serves a Senna."""
        is_senna = isinstance(getattr(engine_client, "renderer", None), SennaRenderer)
        state.senna_scorer = EngineScorer(engine_client) if is_senna else None
        state.senna_templates = load_templates()
        state.senna_decision = served_decision(os.environ)


async def _answer_route(raw_request: Request) -> JSONResponse:
    """Answer a request of the form that `senna.serve.protocol` describes. vLLM turns the errors into responses."""
    try:
        body = json.loads(await raw_request.body())
    except (ValueError, RecursionError) as error:
        raise VLLMValidationError(f"the body is not JSON: {error}") from error
    try:
        return await _answer(body, raw_request=raw_request)
    except DataError as error:
        raise refusal(error) from error


async def _decision_route(raw_request: Request) -> JSONResponse:
    """Answer how this server decides."""
    if raw_request.app.state.senna_scorer is None:
        raise VLLMNotFoundError(_NO_SENNA)
    return JSONResponse(raw_request.app.state.senna_decision.as_json())


@with_cancellation
async def _answer(body: Any, raw_request: Request) -> JSONResponse:
    state = raw_request.app.state
    if state.senna_scorer is None:
        raise VLLMNotFoundError(_NO_SENNA)
    request = read_request(body, state.senna_templates)
    models = state.openai_serving_models
    if request.model is not None and not models.is_base_model(request.model):
        raise VLLMNotFoundError(f"The model `{request.model}` does not exist.")
    images = await state.senna_scorer.renderer.fetcher.fetch(request.images)
    name = f"meta-actions-{uuid.uuid4().hex}"
    turns = [{"from": "human", "value": request.question}]
    scores, tokens = await state.senna_scorer(turns, images, name, request.version, request.ending)
    model, rule = request.model or models.model_name(), state.senna_decision.rule
    return JSONResponse(response(name, model, scores, tokens, rule))


class BodyLimit:
    """ASGI middleware that refuses bodies of more than ``MOST_BODY`` bytes without keeping them.

    The rest of a refused body is read and dropped, since most clients read a response only when they have sent all.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        arrived, is_refused = 0, False

        async def receive_counted() -> Any:
            nonlocal arrived, is_refused
            message = await receive()
            arrived += len(message.get("body", b""))
            while arrived > MOST_BODY:
                is_refused = True
                if not message.get("more_body") or arrived > _MOST_DROPPED:
                    return {"type": "http.disconnect"}
                message = await receive()
                arrived += len(message.get("body", b""))
            return message

        async def send_unless_refused(message: Any) -> None:
            if not is_refused:
                await send(message)

        try:
            await self.app(scope, receive_counted, send_unless_refused)
        except Exception:  # the application sees a client that has gone
            if not is_refused:
                raise
        if is_refused:
            await _too_large()(scope, receive, send)


def _too_large() -> JSONResponse:
    message = f"the body is too large; at most {MOST_BODY >> 20} MiB are read"
    content = {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 413}}
    return JSONResponse(content, status_code=413, headers={"connection": "close"})
