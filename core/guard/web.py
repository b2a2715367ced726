"""The guard over HTTP: POST /classify, GET /, GET /health, and the description of it all at /openapi.json and /docs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field

from core.guard.batching import Batcher, Busy, Closed, Failed, Ticket
from core.guard.door import Door
from core.guard.schema import EXAMPLE, MAX_CHARS, Asked, Classified
from core.methods import UserError
from core.records import Labels

MAX_ITEMS = 64
"""Interactions in one request."""
MAX_BODY = 4_000_000
"""Bytes."""
LOOK_EVERY = 0.25
"""Seconds between two looks at whether a client is still there."""
GONE = 499
"""What is noted of a client that did not wait; nobody reads it."""
DESCRIPTION = f"""Labels of a safety guard for a prompt and, where there is one, the response to it.

Send one object, or a list of up to {MAX_ITEMS}, which is answered in the same order. Requests that come at the same time go through the
model together. A label that is null is **missing**, with the reason in `missing`; it never means "safe".

Confidence and score are shares from 0 to 1, `tokens` are the model's, limits of texts are characters, `Retry-After` is in seconds."""


class Problem(BaseModel):
    """Every error: one sentence that says what to do."""

    detail: str = Field(examples=["prompt: String should have at least 1 character."])


class Health(BaseModel):
    """Is the service there?"""

    status: Literal["ok", "broken"] = Field(description="broken: the thread that answers has ended; start the service again")
    waiting: int = Field(description="requests that are not in work yet")
    answered: int = Field(description="interactions answered since the start")
    batches: int = Field(description="passes through the model since the start; fewer than `answered` where clients come together")


def guard_app(batcher: Batcher, facts: dict[str, Any], *, key: str = "", max_body: int = MAX_BODY) -> FastAPI:
    """The application. `facts` is what GET / tells; with `key` only those who send it are answered."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(batcher.close)

    refusals: dict[int | str, dict[str, Any]] = {401: {"model": Problem, "description": "The key is missing or wrong"}} if key else {
        421: {"model": Problem, "description": "Asked by a name that is not this machine's"}}
    app = FastAPI(title="GuardWaltz guard", description=DESCRIPTION, version="1", lifespan=life, redoc_url=None, responses=refusals,
                  swagger_ui_oauth2_redirect_url=None)
    app.add_middleware(Door, key=key, max_body=max_body)
    app.add_exception_handler(RequestValidationError, _explained)
    locked = [_described(HTTPBearer(auto_error=False, description="The key that --key names"))] if key else []

    @app.post("/classify", dependencies=locked, summary="Classify one interaction, or a list of them", responses={
        413: {"model": Problem, "description": f"The body is larger than {max_body:,} bytes"},
        422: {"model": Problem, "description": "The request is not as described, or too long for the guard's context; in a list, what is "
                                               "too long has its sentence in `error`, and the others are answered"},
        500: {"model": Problem, "description": "The model failed"},
        503: {"model": Problem, "description": "Too many requests wait, or this one has waited too long: come again after `Retry-After`",
              "headers": {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}}})
    async def classify(request: Request, body: Annotated[Asked | Annotated[list[Asked], Field(min_length=1, max_length=MAX_ITEMS)], Body(
            openapi_examples={"request": {"summary": "A prompt alone", "value": {"prompt": EXAMPLE["prompt"]}},
                              "response": {"summary": "A prompt and the response to it", "value": EXAMPLE},
                              "list": {"summary": "Several", "value": [EXAMPLE, {"prompt": EXAMPLE["prompt"]}]}})],
                       ) -> Classified | list[Classified]:
        """Labels, reasoning and confidence. Every text is at most 100,000 characters."""
        said = await _answers(request, batcher, body if isinstance(body, list) else [body])
        if isinstance(body, list):
            return [one if isinstance(one, Classified) else _not_classified(one, facts) for one in said]
        if isinstance(said[0], UserError):
            raise HTTPException(422, str(said[0]))
        return said[0]

    @app.get("/health", summary="Is the service there?")
    async def health(response: Response) -> Health:
        """Needs no key. Status 503 where nothing would be answered."""
        if not batcher.alive:
            response.status_code = 503
        return Health(status="ok" if batcher.alive else "broken", waiting=batcher.waiting, answered=batcher.answered,
                      batches=batcher.batches)

    @app.get("/", dependencies=locked, summary="Which model answers, and how")
    async def about() -> dict[str, Any]:
        """The model, its prompt format, the labels it gives, where confidence is from, and the limits."""
        return {**facts, "limits": {"items": MAX_ITEMS, "body_bytes": max_body, "text_characters": MAX_CHARS,
                                    "waiting": batcher.limits.max_queue, "patience_seconds": batcher.limits.patience}}

    return app


def _described(scheme: HTTPBearer) -> Any:
    """For the description alone: the door has looked at the key before."""
    from fastapi import Security

    return Security(scheme)


async def _answers(request: Request, batcher: Batcher, asked: Sequence[Asked]) -> list[Classified | UserError]:
    """Wait for the answers; whoever goes away is dropped. An answer is a UserError where the interaction is at fault."""
    if len(asked) > batcher.limits.max_queue:
        raise HTTPException(422, f"The list has {len(asked)} items, and no more than {batcher.limits.max_queue} may wait here; send fewer.")
    try:
        tickets = batcher.submit(asked)
        waiting = asyncio.gather(*(asyncio.wrap_future(ticket.answer) for ticket in tickets), return_exceptions=True)
        try:
            while not (await asyncio.wait({waiting}, timeout=LOOK_EVERY))[0]:
                if await request.is_disconnected():
                    raise HTTPException(GONE, "The client did not wait.")
        finally:
            _drop(tickets)
        found = waiting.result()
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, UserError):
                raise one
        return [one for one in found if isinstance(one, Classified | UserError)]
    except Busy as busy:
        raise HTTPException(503, f"{busy} Come again in {busy.retry_after} s.", {"Retry-After": str(busy.retry_after)}) from None
    except Closed:
        raise HTTPException(503, "The service is ending.", {"Retry-After": "60"}) from None
    except HTTPException:
        raise
    except Exception as error:
        raise HTTPException(500, failure(error)) from error


def _drop(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        ticket.dropped = True


def failure(error: BaseException) -> str:
    """A failure of the model in one sentence, without the text that it was about."""
    if isinstance(error, Failed):
        return str(error)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return "The guard ran out of memory; start it with a smaller --max-batch."
    return f"The guard failed ({type(error).__name__}); its log has more."


def _not_classified(error: UserError, facts: dict[str, Any]) -> Classified:
    return Classified(labels=Labels(), error=str(error), model=facts.get("model", ""), prompt_format=facts.get("prompt_format", ""))


async def _explained(_: Request, error: Exception) -> Response:
    """The first thing that is wrong, as a sentence. The texts themselves are not repeated."""
    assert isinstance(error, RequestValidationError)
    if any(item["type"] == "json_invalid" for item in error.errors()):
        return JSONResponse({"detail": "The body is no JSON; send an object with `prompt`, or a list of them."}, 422)
    if isinstance(error.body, bytes):
        return JSONResponse({"detail": "Send JSON, with the header Content-Type: application/json."}, 422)
    problems = [item for item in error.errors() if len(item["loc"]) < 2 or _is_list(item["loc"][1]) == isinstance(error.body, list)]
    item = (problems or error.errors())[0]
    steps = [step for step in item["loc"][1:] if not (_is_list(step) or step == Asked.__name__)]
    place = ", ".join(f"item {step + 1}" if isinstance(step, int) else step for step in steps)
    return JSONResponse({"detail": f"{place + ': ' if place else ''}{item['msg'].rstrip('.')}."}, 422)


def _is_list(branch: Any) -> bool:
    """Is this the part of a union that stands for a list?"""
    return str(branch).startswith(("list", "constrained-list"))
