"""The page's server: one page, six questions, and nothing kept. It listens on this computer alone."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from rdfia.explore import digits
from rdfia.explore.photographs import Photographs
from rdfia.explore.pictures import MOST_BYTES, as_digit, read
from rdfia.generation.cgan import cGANModule
from rdfia.generation.digit_judge import DigitJudge
from rdfia.generation.gan import GANModule

HERE = Path(__file__).parent
KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}
# Questions that wait for their turn; who asks when so many do is told to come again.
MOST_WAITING = 64
RULES = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Networks:
    """What is asked. Without a generator its part of the page says which command trains one."""

    photographs: Photographs
    judge: DigitJudge
    gan: GANModule | None = None
    cgan: cGANModule | None = None


class Busy(Exception):  # noqa: N818 - no error of the asker
    """So many questions wait that no more are taken."""


class Missing(Exception):  # noqa: N818 - no error of the asker
    """There is no such run."""


def make_app(networks: Networks) -> FastAPI:
    """Return the app; one question is answered at a time, as each takes all cores."""
    app = FastAPI(title="rdfia explorer", docs_url=None, redoc_url=None, openapi_url=None)
    # A page of elsewhere whose name is made to point here is not answered.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    turn, waiting = asyncio.Lock(), [0]

    async def answer(question: Callable[..., Any], *given: Any) -> Any:
        if waiting[0] >= MOST_WAITING:
            raise Busy
        waiting[0] += 1
        try:
            async with turn:
                return await run_in_threadpool(question, *given)
        finally:
            waiting[0] -= 1

    @app.middleware("http")
    async def add_rules(request: Request, following: Any) -> Response:
        response: Response = await following(request)
        response.headers.update(RULES)
        return response

    @app.exception_handler(ValueError)
    async def refuse(request: Request, error: ValueError) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(RequestValidationError)
    async def refuse_numbers(request: Request, error: RequestValidationError) -> Response:
        wrong = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors())
        return JSONResponse({"error": wrong}, 422)

    @app.exception_handler(HTTPException)  # no such page, or not asked so
    async def refuse_page(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code)

    @app.exception_handler(Busy)
    async def put_off(request: Request, error: Busy) -> Response:
        said = f"{MOST_WAITING} questions wait already; ask again"
        return JSONResponse({"error": said}, 503, {"Retry-After": "5"})

    @app.exception_handler(Missing)
    async def name_command(request: Request, error: Missing) -> Response:
        return JSONResponse({"error": str(error)}, 404)

    @app.get("/")
    def page() -> Response:
        return _file("html")

    @app.get("/page.{kind}")
    def part(kind: str) -> Response:
        return _file(kind) if kind in KINDS else JSONResponse({"error": "there is no such page"}, 404)

    @app.get("/about")
    def about() -> dict[str, Any]:
        return {
            "network": getattr(networks.photographs.network, "name", "a classifier"),
            "classes": len(networks.photographs.classes),
            "measure": networks.photographs.measure,
            "latents": digits.MOST_LATENTS,
            "gan": None if networks.gan else _lacking("gan"),
            "cgan": None if networks.cgan else _lacking("cgan"),
        }

    @app.post("/photograph/{what}")
    async def photograph(what: str, request: Request) -> Any:
        asked = {
            "look": networks.photographs.look,
            "nearest": networks.photographs.nearest,
            "fool": networks.photographs.fooled,
        }
        if what not in asked:
            return JSONResponse({"error": "there is no such question"}, 404)
        content = await _content(request)
        return await answer(lambda: asked[what](networks.photographs.read(content)))

    @app.post("/digit/{what}")
    async def digit(what: str, request: Request) -> Any:
        content = await _content(request)
        cgan = networks.cgan
        if what == "read":
            return await answer(lambda: digits.read(networks.judge, as_digit(read(content, "L"))))
        if what != "style":
            return JSONResponse({"error": "there is no such question"}, 404)
        if cgan is None:
            raise Missing(_lacking("cgan"))
        return await answer(lambda: digits.in_style(cgan, networks.judge, as_digit(read(content, "L"))))

    Latent = Annotated[int, Query(ge=0, lt=digits.MOST_LATENTS)]  # noqa: N806 - a type

    @app.get("/walk")
    async def walk(first: Latent, second: Latent) -> Any:
        if networks.gan is None:
            raise Missing(_lacking("gan"))
        return await answer(digits.walk, networks.gan, first, second)

    return app


def _file(kind: str) -> Response:
    return Response((HERE / f"page.{kind}").read_text(), media_type=KINDS[kind])


def _lacking(kind: str) -> str:
    return f"no run of train_{kind}.py is loaded; train one, and start with --{kind} runs/{kind}"


async def _content(request: Request) -> bytes:
    """Return what is sent, which a page of elsewhere cannot send unasked, as it is of no simple type.

    Raises:
        ValueError: It is no picture by its type, or too large.
    """
    if not request.headers.get("content-type", "").startswith("image/"):
        raise ValueError("send a picture: a PNG, a JPEG or another that Pillow reads")
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            raise ValueError(f"this file has more than {MOST_BYTES:,} bytes; make it smaller")
    return bytes(content)
