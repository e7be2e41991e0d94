"""Answers that must be JSON, through the official client, from models that write anything."""

import asyncio
import contextlib
import gc
import json
import threading
import time
from collections.abc import Iterator
from typing import Literal

import numpy as np
import openai
import psutil
import pytest
from llguidance import LLTokenizer
from pydantic import BaseModel

from moesubnet.mixture.law import Law, mix
from moesubnet.router.app import build_app
from moesubnet.router.grammar import (
    COMPILERS,
    MAX_SCHEMA_BYTES,
    Grammars,
    Matcher,
    json_rule,
    too_much,
)
from moesubnet.router.model import Forecast
from moesubnet.router.openai_api import ApiError
from moesubnet.router.service import Service
from moesubnet.router.steering import NO_WISHES, Steering
from moesubnet.router.text import TextStream
from moesubnet.router.trials import CPU_S, Trials, Words
from moesubnet.spec.pieces import Pieces
from moesubnet.wire.listening import serve as listen
from moesubnet.wire.strict_json import parse_json
from tests.conftest import TINY_VOCAB
from tests.families import families
from tests.schemas import fits, some_schema

from .conftest import ParrotModel, ParrotSession, client
from .test_drafted_streams import student_of
from .test_mixed_streams import network, open_model, sharp  # noqa: F401  # fixtures

ASKED = [{"role": "user", "content": "the"}]


class Pet(BaseModel):
    name: str
    kind: Literal["cat", "dog"]
    legs: int
    tags: list[bool]


class Tree(BaseModel):
    label: Literal["a", "b"]
    children: list["Tree"]


@pytest.fixture
def babbler(parrot, tokenizer, monkeypatch) -> ParrotModel:
    """Every law is another, and a few tokens have nearly all of it; as a model that was not
    trained to write JSON, but one that sometimes closes what it opened."""
    closing, streams = [tokenizer.token_to_id(text) for text in '}]",'], iter(range(10**6))

    def forecast(self: ParrotSession) -> Forecast:
        rng = np.random.default_rng([self.at, next(streams)])
        p = rng.dirichlet(np.full(TINY_VOCAB, 0.05)) + 1e-7
        p[closing] += 0.01
        return Forecast(mix(np.zeros(1), [Law(np.log(p / p.sum()))]), {"babbler": 1.0})

    monkeypatch.setattr(ParrotSession, "forecast", forecast)
    return parrot


async def written(api, schema, **options):
    answer = await api.chat.completions.create(
        model="mixture",
        messages=ASKED,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
        **options,
    )
    return answer.choices


@pytest.mark.parametrize("kind", [Pet, Tree])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 2.0])
async def test_an_answer_is_of_its_schema_whatever_the_model_would_write(
    serve, babbler, kind, temperature
) -> None:
    api = client(await serve(says={"context_tokens": 512}))
    choices = await written(api, kind.model_json_schema(), n=8, temperature=temperature)
    whole = [choice for choice in choices if choice.finish_reason == "stop"]
    assert whole, "none was finished"
    for choice in whole:
        kind.model_validate_json(choice.message.content)


async def test_two_hundred_schemas_that_nobody_chose_are_all_kept(spec, tokenizer) -> None:
    """Whatever of what is allowed comes next, an answer that ends parses and has its schema."""
    grammars, finished = Grammars(spec.spec, tokenizer, Pieces(tokenizer)), 0
    closing = [tokenizer.token_to_id(text) for text in '}],"']
    for seed in range(200):
        rng = np.random.default_rng(seed)
        schema = some_schema(rng)
        matcher, ids = await grammars.matcher("start: " + json_rule(schema, "x"), "x"), list[int]()
        while len(ids) < 400:
            allowed = np.flatnonzero(matcher.allowed())
            if {*spec.spec.stop_ids} & {*allowed.tolist()} and rng.random() < 0.5:
                break
            wanted = [i for i in closing if i in allowed] if rng.random() < 0.5 else []
            ids.append(int(rng.choice(wanted or allowed)))
            if ids[-1] in spec.spec.stop_ids:
                ids.pop()
                break
            matcher.push(ids[-1])
            if matcher.is_over:
                break
        else:
            continue
        finished += 1
        value = json.loads(tokenizer.decode(ids))
        assert fits(value, schema), (seed, schema, value)
    assert finished > 180


async def test_json_object_is_an_object_and_its_stream_joins_to_it(serve, babbler) -> None:
    api = client(await serve())
    stream = await api.chat.completions.create(
        model="mixture", messages=ASKED, response_format={"type": "json_object"}, stream=True
    )
    text, finish = "", None
    async for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        finish = chunk.choices[0].finish_reason or finish
    assert text.lstrip().startswith("{")
    assert finish == "length" or isinstance(json.loads(text), dict)


async def test_responses_take_the_same_schemas(serve, babbler) -> None:
    api = client(await serve())
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    answer = await api.responses.create(
        model="mixture",
        input="the",
        text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
    )
    assert json.loads(answer.output_text)["a"] in (1, 2)
    assert answer.text.format.schema_ == schema
    stream = await api.responses.create(
        model="mixture",
        input="the",
        text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
        stream=True,
    )
    last = [event async for event in stream][-1]
    assert json.loads(last.response.output_text)["a"] in (1, 2)


@pytest.mark.parametrize(
    ("schema", "names"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "string", "pattern": "(?=a)b"}, "look"),
        ({"type": "string", "format": "postcode"}, "postcode"),
        ({"$ref": "http://example.org/x"}, "example.org"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "minimum"),
        ({"type": "integer", "multipleOf": 1_000_003}, "multipleOf"),
        ({"type": "object", "x-guidance": {"lenient": True}, "not": {}}, "not"),
        ({"enum": ["x" * 40_000]}, "larger"),
    ],
)
async def test_a_schema_that_cannot_be_honoured_is_refused_by_name(serve, schema, names) -> None:
    api = client(await serve())
    for call in (
        written(api, schema),
        api.responses.create(
            model="mixture",
            input="the",
            text={"format": {"type": "json_schema", "name": "x", "schema": schema}},
        ),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await call
        assert caught.value.code == "unsupported_schema"
        assert names in caught.value.message
        assert caught.value.param in ("response_format", "text.format")


@pytest.mark.parametrize("number", ["1e400", "-1e400", "-1e300", "0", "1e-400"])
def test_multiples_of_no_number_are_refused_by_name(number: str) -> None:
    schema = parse_json(f'{{"type": "number", "multipleOf": {number}}}'.encode())
    with pytest.raises(ApiError, match="multipleOf"):
        json_rule(schema, "x")


def test_of_a_schema_that_is_too_large_little_is_looked_at() -> None:
    """The loop of all streams looks: four megabytes held it for most of a second."""
    looked = 0

    class Many(list[object]):
        def __iter__(self) -> Iterator[object]:
            nonlocal looked
            for looked in range(1_000_000):  # noqa: B007
                yield {}

    with pytest.raises(ApiError, match="larger"):
        json_rule({"anyOf": Many()}, "x")
    assert looked <= MAX_SCHEMA_BYTES


@pytest.mark.parametrize("stream", [False, True])
async def test_a_grammar_that_turns_out_too_much_ends_its_answer_with_an_error(
    serve, babbler, monkeypatch, stream
) -> None:
    def late(self: Matcher) -> np.ndarray:
        if babbler.opened < 3:
            babbler.opened += 1
            return np.ones(TINY_VOCAB, bool)
        raise too_much()

    monkeypatch.setattr(Matcher, "allowed", late)
    monkeypatch.setattr(Matcher, "push", lambda self, token_id: None)
    api = client(await serve())

    async def read() -> None:
        answer = await api.chat.completions.create(
            model="mixture",
            messages=ASKED,
            response_format={"type": "json_object"},
            stream=stream,
            n=2,
        )
        async for _ in answer:
            pass

    with pytest.raises(openai.APIError) as caught:
        await read()
    assert caught.value.code == "grammar_too_complex"


async def test_what_only_describes_a_schema_does_not_count(serve, babbler) -> None:
    schema = {"enum": ["yes"], "description": "x" * 100_000}
    [choice] = await written(client(await serve()), schema)
    assert json.loads(choice.message.content) == "yes"


def nested(size: int) -> object:
    kinds = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(size)}
    return {"$ref": "#/$defs/d0", "$defs": kinds | {f"d{size}": {"type": "string"}}}


HOSTILE = {
    "many optional": {"type": "object", "properties": {f"{i}": {} for i in range(3000)}},
    "many choices": {"enum": [f"{i}" for i in range(3000)]},
    "doubling": nested(30),
    "doubling, and": {
        "allOf": [
            {"anyOf": [{"properties": {f"{i}.{k}": {"type": "string"}}} for k in (0, 1)]}
            for i in range(16)
        ]
    },
    "repeated": {"type": "string", "pattern": "^(([a-z]{1,100}){1,100}){1,100}$"},
    "remembering": {"type": "string", "pattern": "^((a|b)*a(a|b){200})*$"},
    "very long": {"type": "array", "minItems": 10**9, "items": {"type": "integer"}},
    "endless": {"$ref": "#"},
    "two multiples": {"allOf": [{"multipleOf": 997}, {"multipleOf": 991}], "type": "integer"},
    "small multiple": {"type": "number", "multipleOf": 1.000003},
    "patterns": {
        "type": "object",
        "patternProperties": {f"^a{i}.*b$": {"type": "string"} for i in range(300)},
    },
    # Gigabytes, and hours.
    "all of": {"allOf": [{"type": "string", "pattern": f"^.*a.{{{i}}}$"} for i in range(10, 40)]},
    # Overflows a thread's stack, as often as it is compiled.
    "in a row": {
        "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(900)} | {"d900": {}},
        "$ref": "#/$defs/d0",
    },
}


@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_schema_takes_little_time_and_no_one_elses(spec, tokenizer, schema) -> None:
    """Measured in this process's CPU time: a few times what a trial may take, with 60 steps; most
    take far less."""
    grammars = Grammars(spec.spec, tokenizer, Pieces(tokenizer))
    await grammars.matcher('start: "a"', "x")  # the vocabulary, and the process of trials
    rng, since_s = np.random.default_rng(0), time.process_time()
    with contextlib.suppress(ApiError):  # refused, now or at some step
        matcher = await grammars.matcher("start: " + json_rule(schema, "x"), "x")
        for _ in range(60):
            token_id = int(rng.choice(np.flatnonzero(matcher.allowed())))
            matcher.push(token_id)
            if matcher.is_over or token_id in spec.spec.stop_ids:
                break
    assert time.process_time() - since_s < 4 * CPU_S


async def test_a_schema_that_would_end_the_router_is_refused(serve, babbler) -> None:
    """Others are answered meanwhile."""
    api = client(await serve())
    for schema in (HOSTILE["all of"], HOSTILE["in a row"]):
        other, *tries = await asyncio.gather(
            written(api, Pet.model_json_schema()),
            *(written(api, schema) for _ in range(4)),
            return_exceptions=True,
        )
        assert [error.code for error in tries] == ["grammar_too_complex"] * 4
        assert {error.status_code for error in tries} == {400}
        assert other[0].message.content


async def test_nobody_can_have_anothers_schema_refused(spec, tokenizer) -> None:
    """What was tried together with one that took everything is tried again by itself."""
    grammars = Grammars(spec.spec, tokenizer, Pieces(tokenizer))
    hostile = "start: " + json_rule(HOSTILE["all of"], "x")
    innocent = "start: " + json_rule(Pet.model_json_schema(), "x")
    with pytest.raises(ApiError) as caught:
        await grammars.tried([hostile, innocent], "tools")
    assert caught.value.body["error"]["code"] == "grammar_too_complex"
    assert await grammars.tried([innocent], "x") == [""]


async def test_whoever_sends_many_grammars_keeps_no_other_caller_waiting(
    spec, tokenizer, monkeypatch
) -> None:
    grammars = Grammars(spec.spec, tokenizer, Pieces(tokenizer))
    await grammars.matcher('start: "a"', "x")  # the vocabulary
    order, may_go_on = list[str](), threading.Event()

    def tried(self: Trials, rules: list[str]) -> list[str]:
        order.extend(rules)
        may_go_on.wait(30.0)
        return [""] * len(rules)

    monkeypatch.setattr(Trials, "tried", tried)
    many = [asyncio.create_task(grammars.tried([f"{k}"], "x", "many")) for k in range(20)]
    await asyncio.sleep(0)
    one = asyncio.create_task(grammars.tried(["one"], "x", "one"))
    await asyncio.sleep(0)
    may_go_on.set()
    await asyncio.gather(one, *many)
    assert order.index("one") <= COMPILERS + 1  # behind those that ran, and one that was first


async def test_a_vocabulary_that_nobody_waited_for_is_not_made_again(
    spec, tokenizer, monkeypatch
) -> None:
    """Large ones take as long on a slow machine as anybody waits for a grammar."""
    grammars, made = Grammars(spec.spec, tokenizer, Pieces(tokenizer)), list[Words]()
    make, may_go_on = Words.vocabulary, threading.Event()

    def vocabulary(words: Words) -> LLTokenizer:
        made.append(words)
        may_go_on.wait(60.0)
        return make(words)

    monkeypatch.setattr(Words, "vocabulary", vocabulary)
    monkeypatch.setattr(Trials, "tried", lambda self, rules: [""] * len(rules))
    with monkeypatch.context() as impatient:
        impatient.setattr("moesubnet.router.grammar.PATIENCE_S", 0.1)
        with pytest.raises(ApiError, match="busy"):
            await grammars.matcher('start: "a"', "x")
    asked = asyncio.create_task(grammars.matcher('start: "a"', "x"))
    await asyncio.sleep(0.1)
    may_go_on.set()
    assert await asked
    assert len(made) == 1


async def test_a_process_of_trials_that_was_killed_is_started_again(spec, tokenizer) -> None:
    gc.collect()
    before = {*psutil.Process().children()}
    grammars = Grammars(spec.spec, tokenizer, Pieces(tokenizer))
    await grammars.matcher('start: "a"', "x")
    [child] = {*psutil.Process().children()} - before
    child.kill()
    assert await grammars.matcher('start: "b"', "x")
    del grammars
    gc.collect()
    assert {*psutil.Process().children()} <= before


async def test_compiling_leaves_the_loop_to_others(spec, tokenizer) -> None:
    grammars = Grammars(spec.spec, tokenizer, Pieces(tokenizer))
    schema = {"type": "object", "properties": {f"{i}": {"type": "string"} for i in range(1000)}}
    compiling = asyncio.create_task(grammars.matcher("start: " + json_rule(schema, "x"), "x"))
    turns = 0
    while not compiling.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 100


async def test_where_nobody_lists_what_the_grammar_wants_the_baseline_writes(
    spec, tokenizer
) -> None:
    grammars = Grammars(spec.spec, tokenizer, Pieces(tokenizer))
    matcher = await grammars.matcher('start: "xyz"', "x")
    base = Law(np.full(TINY_VOCAB, -np.log(TINY_VOCAB)))
    ids = np.array(tokenizer.encode("a b").ids[:1])
    listed = Law(np.log(np.full(1, 0.999)), ids, 0.001, base)
    mixture = mix(np.array([0.0, -np.inf]), [listed, base])
    steering, rng, text = Steering(NO_WISHES, matcher), np.random.default_rng(1), []
    while not steering.is_over:
        shaped = steering.shaped(mixture)
        assert shaped.is_fallback
        text.append(shaped.draw(1.0, 1.0, rng))
        steering.push(text[-1])
    assert tokenizer.decode(text) == "xyz"


@pytest.mark.parametrize("name", families())
async def test_every_kind_of_tokenizer_writes_json_as_its_text_shows_it(name) -> None:
    family = families()[name]
    grammars = Grammars(family.spec, family.tokenizer, Pieces(family.tokenizer))
    key = "q" if name == "unigram" else "é"  # it has no bytes to fall back to
    schema = {"type": "object", "properties": {key: {"enum": ["世界", "a b"]}}, "required": [key]}
    schema["additionalProperties"] = False
    rules = f"start: {grammars.lead} {json_rule(schema, 'x')}"
    for seed in range(4):
        matcher, ids = await grammars.matcher(rules, "x"), list[int]()
        rng = np.random.default_rng(seed)
        while not matcher.is_over:
            ids.append(int(rng.choice(np.flatnonzero(matcher.allowed()))))
            matcher.push(ids[-1])
        text = TextStream(Pieces(family.tokenizer), ())
        shown = "".join(text.push(token_id) for token_id in ids) + text.finish()
        assert json.loads(shown)[key] in ("世界", "a b")


@pytest.fixture
async def far_away(spec, network, open_model):  # noqa: F811
    """An expert and a student that both write fives, by a router: an API, and who they are."""
    await network.mine("fives", lambda ids: sharp(5, 0.5))
    model = await open_model()
    model.student = student_of(lambda ids: sharp(5, 0.5))
    service = Service(spec, {"mixture": model})
    server = await listen(build_app(lambda: service), "127.0.0.1", 0, grace_s=1.0)
    yield client(f"http://127.0.0.1:{server.port}"), model
    await server.close()


def one_of(key: str, *values: object) -> dict[str, object]:
    schema = {"type": "object", "properties": {key: {"enum": values}}, "required": [key]}
    return schema | {"additionalProperties": False}


async def test_a_schema_holds_also_where_a_student_drafts(far_away) -> None:
    """Drafts are made without the grammar, and go as far as it allows them."""
    api, model = far_away
    choices = await written(api, one_of("a", "xy", 12), max_tokens=50)
    assert json.loads(choices[0].message.content)["a"] in ("xy", 12)
    assert sum(model.student.engine.drafted) > 0


@pytest.mark.parametrize("seed", [None, 7])
@pytest.mark.parametrize("student", [True, False])
async def test_what_a_schema_forces_costs_no_round_trips(far_away, student, seed) -> None:
    """Though nobody would write it, drafts it or is asked to."""
    api, model = far_away
    if not student:
        model.student = None
    schema, options = one_of("name", "the quick fox"), {} if seed is None else {"seed": seed}
    choices = await written(api, schema, max_tokens=55, logprobs=True, **options)
    assert json.loads(choices[0].message.content) == {"name": "the quick fox"}
    (expert,) = model.book.known().values()
    assert expert.answers < len(choices[0].logprobs.content) - 10
