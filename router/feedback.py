"""`POST /v1/feedback`: what users think of answers, by the key that paid for them."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import Field, model_validator

from moesubnet.router import openai_api as api
from moesubnet.router.door import KEY, Admission
from moesubnet.router.usage import UsageBook
from moesubnet.wire.limits import RateLimiter

RATINGS: web.AppKey[UsageBook] = web.AppKey("ratings", UsageBook)
PER_S, AT_ONCE = 1.0, 60.0  # of one key


class FeedbackRequest(api.Form):
    """Either a rating, or another answer that is preferred to this one."""

    response_id: str = Field(min_length=1, max_length=128)
    rating: float | None = Field(default=None, ge=-1.0, le=1.0)
    preferred: str | None = Field(default=None, min_length=1, max_length=128)

    @model_validator(mode="after")
    def _one_of_both(self) -> FeedbackRequest:
        if (self.rating is None) == (self.preferred is None):
            raise ValueError("give `rating`, from -1 to 1, or `preferred`, another answer's id")
        if self.preferred == self.response_id:
            raise ValueError("an answer cannot be preferred to itself")
        return self


def feedback(admission: Admission) -> Handler:
    limiter = RateLimiter(PER_S, AT_ONCE)

    async def handle(request: web.Request) -> web.StreamResponse:
        """Not part of OpenAI's API. Again replaces what was said of an answer before."""
        body = await admission.parsed(request, FeedbackRequest)
        key = request.get(KEY)
        if key is None:
            text = "Only keys of the ledger can rate: a rating weighs what its answer cost."
            raise api.ApiError(403, text, code="no_key")
        if not limiter.take(key.id):
            raise api.ApiError(429, "Too many ratings by this key.", code="rate_limit_exceeded")
        book = request.app[RATINGS]
        rated = {body.response_id: body.rating if body.rating is not None else -1.0}
        if body.preferred is not None:
            rated[body.preferred] = 1.0
        if missing := [name for name in rated if not book.has(name, key.id)]:
            text = f"No answer '{missing[0]}' of this key can be rated (any more)."
            param = "response_id" if missing[0] == body.response_id else "preferred"
            raise api.ApiError(404, text, code="response_not_found", param=param)
        for name, rating in rated.items():
            book.rate(name, key.id, rating)
        return web.json_response({"object": "feedback", "rated": rated})

    return handle
