"""A model behind llama.cpp's own server answers as the same model here does."""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import re
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from moesubnet.engine import completions
from moesubnet.engine.base import Query
from moesubnet.engine.bytes_engine import BytesEngine
from moesubnet.engine.completions import CannotTell, CompletionServer
from moesubnet.engine.named import check_engine, load_engine
from moesubnet.engine.transformers_engine import TransformersEngine
from moesubnet.engine.upstream import UpstreamEngine
from moesubnet.errors import ConfigError, EngineError
from moesubnet.miner.batcher import Batcher
from moesubnet.mixture.law import Law
from moesubnet.owner.build import build_spec
from moesubnet.spec.content import LoadedSpec, SpecFile, file_sha256, save_spec
from moesubnet.spec.family import every_family
from moesubnet.types import Hotkey
from moesubnet.wire.step import Want
from tests.gguf_files import llama_server, write_gguf

Response = web.StreamResponse
CONTEXT = 64
EVEN = Law(np.full(300, -np.log(300), np.float32))


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = write_gguf(tiny_model, tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    with llama_server(model, context=256) as url:
        yield url


@pytest.fixture(scope="module")
def engine(server: str, tiny_spec: LoadedSpec) -> Iterator[UpstreamEngine]:
    engine = load_engine("auto", "", tiny_spec, upstream=server)
    assert isinstance(engine, UpstreamEngine)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def here(tiny_model: Path, tiny_spec: LoadedSpec) -> TransformersEngine:
    return TransformersEngine(str(tiny_model), tiny_spec)


def batch() -> list[Query]:
    rng = np.random.default_rng(1)
    ids = rng.integers(1, 300, (3, 40)).astype(np.uint32)
    return [
        Query("a/1", ids[0], 36, draft=3, seed=5),
        Query("b/1", ids[1, :1], 0),
        Query("b/2", ids[2, :0], 0),
    ]


@pytest.mark.parametrize("want", [Want("full"), Want("top_k", 7), Want("nucleus", 200, 0.9)])
def test_it_gives_the_laws_of_the_model(
    engine: UpstreamEngine, here: TransformersEngine, want: Want
) -> None:
    for ours, theirs in zip(here.rows(batch(), want), engine.rows(batch(), want), strict=True):
        scores = np.exp(theirs.draft_logprobs), np.exp(ours.draft_logprobs)
        np.testing.assert_allclose(*scores, atol=2e-3)
        for row in range(ours.count):
            ours_ids, ours_logp, ours_tail = ours.row(row)
            ids, logp, tail = theirs.row(row)
            if want.kind != "full":
                assert ids is not None
                assert ours_ids is not None
                assert ids.tolist() == ours_ids.tolist()
            np.testing.assert_allclose(np.exp(logp), np.exp(ours_logp), atol=2e-3)
            assert tail == pytest.approx(ours_tail, abs=5e-3)


def test_what_it_commits_to_is_a_law(engine: UpstreamEngine) -> None:
    (answer, *_) = engine.rows(batch(), Want("nucleus", 50, 0.9, committed=True))
    assert answer.whole is not None
    assert np.exp(answer.whole.astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-3)
    assert answer.bind().bound is not None


def test_what_the_server_can_is_found_out(engine: UpstreamEngine) -> None:
    assert (engine.lists, engine.tells_prompts, engine.caches) == (300, False, True)
    # its context is the model's, and it insists on generating a token
    assert engine.context_tokens == CONTEXT - 1


async def test_a_miner_serves_it(engine: UpstreamEngine, here: TransformersEngine) -> None:
    batcher = Batcher(engine)
    query = Query("caller/s", np.arange(5, 45, dtype=np.uint32), 40)
    (rows,) = await batcher.rows(Hotkey("caller"), [query], Want("full"))
    await batcher.close()
    expected = here.rows([query], Want("full"))[0]
    np.testing.assert_allclose(np.exp(rows.logprobs), np.exp(expected.logprobs), atol=2e-3)


@pytest.fixture(scope="module")
def capped(server: str) -> Iterator[str]:
    """The same server behind one that gives 20 log-probabilities at most, as vLLM does."""

    async def passed(request: web.Request) -> web.Response:
        body = await request.read()
        if (asked := json.loads(body or b"{}").get("logprobs", 0)) > 20:
            return web.json_response({"error": f"{asked} is more than 20"}, status=400)
        async with aiohttp.ClientSession() as session:
            url = server + request.path
            async with session.request(request.method, url, data=body or None) as answer:
                return web.Response(body=await answer.read(), status=answer.status)

    with serving(passed) as url:
        yield url


def test_fewer_log_probabilities_are_priced_at_the_start(
    capped: str, engine: UpstreamEngine, tiny_spec: LoadedSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    short = UpstreamEngine("", tiny_spec, upstream=capped)
    assert short.lists == 20
    said = re.search(r"names 20 tokens.*costs up to ([\d.]+) nats.*at least (\d+) %", caplog.text)
    assert said, caplog.text
    assert float(said[1]) > 0.0
    (rows, *_), (whole, *_) = (e.rows(batch(), Want("full")) for e in (short, engine))
    np.testing.assert_allclose(np.exp(rows.logprobs).sum(1), 1.0, atol=1e-3)
    best = np.argsort(-whole.logprobs, axis=1)[:, :19]
    ours, theirs = (np.take_along_axis(r.logprobs, best, axis=1) for r in (rows, whole))
    np.testing.assert_allclose(ours, theirs, atol=1e-2)
    short.close()


def test_over_bytes_it_gives_the_laws_of_the_model(
    server: str, tiny_model: Path, tmp_path: Path
) -> None:
    """The spec wants more context than the server has; the tokenizer lies here."""
    spec = text_of_bytes(tmp_path / "spec")
    far = load_engine("auto", "", spec, upstream=server, tokenizer=str(tiny_model))
    near = load_engine("auto", str(tiny_model), spec)
    assert isinstance(far, BytesEngine)
    assert far.engine.context_tokens < CONTEXT <= near.context_tokens == far.context_tokens
    assert not far.tells_prompts
    ids = np.frombuffer(b"def main(self): # \xc3\xa9", np.uint8).astype(np.uint32)
    queries = [Query("a/1", ids, len(ids) - 4), Query("a/2", ids[:7], 7)]
    for ours, theirs in zip(
        far.rows(queries, Want("full")), near.rows(queries, Want("full")), strict=True
    ):
        assert np.abs(np.exp(ours.logprobs) - np.exp(theirs.logprobs)).sum(1).max() < 0.05
    far.close()


def test_over_bytes_a_short_list_still_gives_laws(
    capped: str, tiny_model: Path, tmp_path: Path
) -> None:
    spec = text_of_bytes(tmp_path / "spec")
    short = load_engine("auto", "", spec, upstream=capped, tokenizer=str(tiny_model))
    near = load_engine("auto", str(tiny_model), spec)
    assert short.engine.lists == 20
    ids = np.frombuffer(b"def main", np.uint8).astype(np.uint32)
    (rows,), (whole,) = (e.rows([Query("a/1", ids, 4)], Want("full")) for e in (short, near))
    np.testing.assert_allclose(np.exp(rows.logprobs).sum(1), 1.0, atol=1e-3)
    # Inside a word it is rare tokens that tell, which a short list has not; behind one it is exact.
    likeliest = whole.logprobs[0].argmax()
    assert rows.logprobs[0, likeliest] == pytest.approx(whole.logprobs[0, likeliest], abs=0.1)
    short.close()


def test_over_bytes_the_tokenizer_must_be_here_and_the_models_own(
    server: str, tiny_model: Path, tmp_path: Path
) -> None:
    spec = text_of_bytes(tmp_path / "spec")
    with pytest.raises(ConfigError, match=r"tokenizer must be here.*Name it with --tokenizer"):
        check_engine("auto", "tiny.gguf", spec, upstream=server)
    other = tmp_path / "other"
    other.mkdir()
    tokenizer = json.loads((tiny_model / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-20]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copyfile(tiny_model / "config.json", other / "config.json")
    with pytest.raises(EngineError, match=r"does not have the tokenizer of \S*other"):
        check_engine("auto", "", spec, upstream=server, tokenizer=str(other))


def test_what_a_server_can_is_asked_and_said_once(
    server: str, tiny_spec: LoadedSpec, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    check_engine("auto", "", tiny_spec, upstream=server)
    assert not caplog.records
    load_engine("auto", "", tiny_spec, upstream=server).close()
    assert len({record.getMessage() for record in caplog.records}) == len(caplog.records) > 0


def test_another_tokenizer_is_refused_where_it_differs(
    server: str, tiny_spec: LoadedSpec, tmp_path: Path
) -> None:
    tokenizer = json.loads(tiny_spec.tokenizer_path.read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-20]
    with pytest.raises(EngineError, match=r"does not have the tokenizer.*goes on with \[\d+"):
        check_engine("auto", "", changed(tiny_spec, tmp_path, tokenizer), upstream=server)


def test_a_context_that_is_too_short_says_how_to_start_the_server(
    server: str, tiny_spec: LoadedSpec, tmp_path: Path
) -> None:
    tokenizer = json.loads(tiny_spec.tokenizer_path.read_text())
    longer = changed(tiny_spec, tmp_path, tokenizer, context_tokens=512)
    with pytest.raises(EngineError, match=r"reads 64 tokens.*has 512: start it with more"):
        check_engine("auto", "", longer, upstream=server)


def test_a_model_that_it_does_not_serve(server: str, tiny_spec: LoadedSpec) -> None:
    with pytest.raises(EngineError, match=r"serves no 'other'; --model is one of: .*tiny\.gguf"):
        check_engine("auto", "other", tiny_spec, upstream=server)


def test_nobody_there_and_no_url(tiny_spec: LoadedSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "PAUSES_S", (0.0,))
    with pytest.raises(EngineError, match=r"127\.0\.0\.1:9 does not answer"):
        check_engine("auto", "", tiny_spec, upstream="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="a URL like http://127"):
        check_engine("auto", "", tiny_spec, upstream="127.0.0.1:8080")
    with pytest.raises(ConfigError, match="takes no --dtype"):
        check_engine("auto", "", tiny_spec, upstream="http://127.0.0.1:9", dtype="int8")


LISTED = {"id": 5, "logprob": -0.5}


@pytest.mark.parametrize(
    ("logprobs", "why"),
    [
        (None, "no form"),
        ({"content": []}, "no form"),
        ({"content": [{"top_logprobs": []}]}, "nothing of the vocabulary"),
        ({"content": [{"top_logprobs": [LISTED, {"id": 6, "logprob": 0.7}]}]}, "mass is"),
        ({"content": [{"top_logprobs": [{"id": "5", "logprob": -0.5}]}]}, "no integer"),
        ({"content": [{"top_logprobs": [{"id": 10**30, "logprob": -0.5}]}]}, "nothing of"),
        ({"content": [{"top_logprobs": [{"id": 5, "logprob": 1e300}]}]}, "mass is"),
        ({"top_logprobs": [{" the": -0.5}]}, "by their text"),
        ({"top_logprobs": [{"token_id:x": -0.5}]}, "no form"),
    ],
)
async def test_answers_that_are_no_laws_are_refused(logprobs: object, why: str) -> None:
    answer = {"choices": [{"logprobs": logprobs}]}
    with pytest.raises(CannotTell, match=why):
        await asked({"/v1/completions": web.json_response(answer)})


@pytest.mark.parametrize(
    ("response", "why"),
    [
        (lambda: web.Response(body=b"x" * 10**6), "answers more than"),
        (lambda: web.Response(body=b'{"choices": [{"logprobs": NaN}]}'), "no JSON"),
        (lambda: web.Response(body=b"[]"), "no JSON object"),
        (
            lambda: web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}),
            "answers 302",
        ),
        (lambda: web.json_response({"error": "\x1b[31mno"}, status=400), r"400: .*u001b\[31mno"),
    ],
)
async def test_answers_that_are_none_are_refused(
    response: Callable[[], web.Response], why: str
) -> None:
    with pytest.raises(EngineError, match=why):
        await asked({"/v1/completions": response()})


@pytest.mark.parametrize("usage", ["much", [1], {"prompt_tokens_details": "none"}])
async def test_what_a_server_counts_may_be_nonsense(usage: object) -> None:
    choice = {"logprobs": {"top_logprobs": [{"token_id:5": -0.5}]}}
    law = await asked({"/v1/completions": web.json_response({"choices": [choice], "usage": usage})})
    assert law.ids is not None
    assert law.ids.tolist() == [5]


async def test_a_busy_server_is_asked_again_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(completions, "PAUSES_S", (0.0, 0.0))
    good = {"choices": [{"logprobs": {"top_logprobs": [{"token_id:5": -0.5, "token_id:999": -2}]}}]}
    busy = [web.json_response({"error": "loading"}, status=503) for _ in range(2)]
    with caplog.at_level(logging.INFO, "moesubnet.engine.completions"):
        law = await asked({"/v1/completions": [*busy, web.json_response(good)]})
    said = [record.message for record in caplog.records]
    assert [m.split()[-1] for m in said] == ["again", "again"], "each once"
    assert "503" in said[0]
    assert "answers again" in said[1]
    assert law.ids is not None
    assert law.ids.tolist() == [5]
    assert law.tail == pytest.approx(1 - np.exp(-0.5))


async def test_a_server_that_stays_away_costs_its_callers_the_pauses_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(completions, "PAUSES_S", (0.0, 0.0))
    tries, is_back = 0, False

    async def restarting(request: web.Request) -> Response:
        nonlocal tries
        tries += 1
        return web.json_response({"tokens": [7]}) if is_back else web.Response(status=503)

    with serving(restarting) as url:
        server = CompletionServer(url, key="", vocab_size=300, shape=EVEN)
        for expected in (3, 4, 5):
            with pytest.raises(EngineError, match="answers 503"):
                await server.tokenize("a")
            assert tries == expected
        is_back = True
        assert await server.tokenize("a") == [7]
        is_back, tries = False, 0
        with pytest.raises(EngineError, match="answers 503"):
            await server.tokenize("a")
        assert tries == 3, "it was there again: this may be a moment"
        await server.close()


async def test_an_answer_that_takes_too_long_is_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(completions, "ANSWER_S", 0.05)
    asked_for: list[str] = []

    async def slow(request: web.Request) -> Response:
        asked_for.append(request.path)
        await asyncio.sleep(1)
        return web.json_response({})

    with serving(slow) as url:
        server = CompletionServer(url, key="", vocab_size=300, shape=EVEN)
        with pytest.raises(EngineError, match="took more than"):
            await server.complete(np.array([0], np.uint32), 5)
        await server.close()
    assert asked_for == ["/v1/completions"]


async def asked(answers: Mapping[str, Response | list[Response]]) -> Law:
    """The law of a server with these answers, or its error. V = 300."""
    left = {path: [a] if isinstance(a, web.StreamResponse) else a for path, a in answers.items()}

    async def answer(request: web.Request) -> Response:
        return left[request.path].pop(0)

    with serving(answer) as url:
        server = CompletionServer(url, key="", vocab_size=300, shape=EVEN)
        try:
            return (await server.complete(np.array([0, 1], np.uint32), 5)).law
        finally:
            await server.close()


@contextmanager
def serving(answer: Callable[[web.Request], Awaitable[Response]]) -> Iterator[str]:
    """Every path answered so, in a thread with a loop of its own."""
    ready: queue.Queue[tuple[str, Callable[[], None]]] = queue.Queue()

    async def run() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        port = runner.addresses[0][1]
        ready.put((f"http://127.0.0.1:{port}", lambda: loop.call_soon_threadsafe(over.set)))
        await over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    url, stop = ready.get()
    try:
        yield url
    finally:
        stop()
        thread.join()


def text_of_bytes(root: Path) -> LoadedSpec:
    """A spec over bytes with some public text."""
    (root.parent / "public.txt").write_text("def main(self):\n    return self\n" * 20)
    family, text = every_family(None, 4.0), [root.parent / "public.txt"]
    return build_spec(
        family, text, root, name="any", context_tokens=2_048, min_caller_stake_rao=1
    ).spec


def changed(
    spec: LoadedSpec, folder: Path, tokenizer: Mapping[str, object], **fields: object
) -> LoadedSpec:
    """The spec with another tokenizer.json and other fields."""
    for file in spec.spec.files:
        (folder / file.path).write_bytes(spec.path(file).read_bytes())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    file = SpecFile(path="tokenizer.json", sha256=file_sha256(folder / "tokenizer.json"))
    return save_spec(folder, spec.spec.model_copy(update={"tokenizer": file, **fields}))
