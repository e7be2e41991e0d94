"""Any engine as one over bytes: sessions, going back, forks, batches, conversations."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from moesubnet.engine.base import Query
from moesubnet.engine.bytes_cover import Cover
from moesubnet.engine.bytes_engine import BytesEngine
from moesubnet.engine.bytes_own import plain_talk
from moesubnet.engine.named import check_engine, load_engine, load_engines
from moesubnet.errors import ConfigError, EngineError
from moesubnet.spec.byte_unit import END, TEMPLATE, byte_tokenizer, open_head
from moesubnet.spec.content import LoadedSpec, Spec, SpecFile, file_sha256, spec_files
from moesubnet.spec.prompt import PromptEncoder
from moesubnet.wire.step import Want
from tests.engine import bytes_models as tiny
from tests.families import families
from tests.gguf_files import write_gguf

FULL = Want("full")
TABLE = "tests.engine.test_bytes_engine:TableEngine"


class TableEngine:
    """A law for every sequence, from a hash of its last two ids; it notes what it is asked."""

    name, caches = "table", True
    commitment = "0" * 64

    def __init__(self, model: str, spec: LoadedSpec, *, threads: int = 1) -> None:
        self.vocab_size, self.context_tokens = spec.spec.vocab_size, spec.spec.context_tokens
        self.model, self.end = tiny.RandomModel(self.vocab_size), spec.spec.stop_ids[0]
        self.asked: list[Query] = []
        self.forgotten: list[str] = []

    def rows(self, batch, want):
        assert len({query.session for query in batch}) == len(batch)
        self.asked += batch
        out = []
        for query in batch:
            assert len(query.ids) < self.context_tokens
            path = query.ids.tolist()
            laws = [self.model.of(path[:at]) for at in range(query.first_law, len(path) + 1)]
            out.append(query.answer(np.stack(laws), want))
        return out

    def forget(self, session):
        self.forgotten.append(session)


def bytes_spec(root: Path, context: int = 4_096) -> LoadedSpec:
    root.mkdir(exist_ok=True)
    byte_tokenizer().save(str(root / "tokenizer.json"))
    tokenizer = SpecFile(path="tokenizer.json", sha256=file_sha256(root / "tokenizer.json"))
    spec = Spec(
        name="bytes",
        unit="bytes",
        token_units=4.0,
        vocab_size=257,
        bos_id=END,
        stop_ids=(END,),
        context_tokens=context,
        chat_template=TEMPLATE,
        min_caller_stake_rao=0,
        **(spec_files(None) | {"tokenizer": tokenizer}),
    )
    return LoadedSpec(root, "0" * 64, spec)


def model_folder(root: Path, tokenizer: Tokenizer, **said: object) -> Path:
    root.mkdir()
    tokenizer.save(str(root / "tokenizer.json"))
    config = {"eos_token": "<|end|>", "bos_token": "<|end|>"} | said
    (root / "tokenizer_config.json").write_text(json.dumps(config))
    return root


def loaded(tmp_path: Path, tokenizer: Tokenizer, context: int = 4_096, **said: object):
    folder = model_folder(tmp_path / "model", tokenizer, **said)
    engine = load_engine(TABLE, str(folder), bytes_spec(tmp_path / "spec", context))
    assert isinstance(engine, BytesEngine)
    return engine


def symbols(text: str | bytes) -> np.ndarray:
    raw = text.encode() if isinstance(text, str) else text
    return np.frombuffer(raw, np.uint8).astype(np.uint32)


def laws(engine, ids, first=0, session="s"):
    (rows,) = engine.rows([Query(session, np.asarray(ids, np.uint32), first)], FULL)
    return rows.logprobs


@pytest.fixture(params=["gpt2", "llama2"])
def engine(request, tmp_path: Path):
    tokenizer = tiny.byte_level() if request.param == "gpt2" else tiny.llama2()
    return loaded(tmp_path, tokenizer)


def test_every_position_has_a_law_of_257_symbols_and_the_same_alone_as_in_a_row(engine) -> None:
    ids = symbols("aab ba's 12 é😀\n ab")
    rows = laws(engine, ids)
    assert rows.shape == (len(ids) + 1, 257)
    np.testing.assert_allclose(np.exp(rows.astype(np.float64)).sum(1), 1, atol=1e-5)
    for at in range(len(ids) + 1):
        alone = laws(engine, ids[:at], at, session=f"alone{at}")
        assert np.abs(np.exp(alone[0]) - np.exp(rows[at])).sum() < 0.02


def test_going_back_and_on_is_as_coming_fresh(engine) -> None:
    one, other = symbols("aab ba a's"), symbols("aab b 12 ab")
    laws(engine, one)
    back = laws(engine, other)
    fresh = laws(engine, other, session="fresh")
    assert np.abs(np.exp(back) - np.exp(fresh)).sum(1).max() < 0.02
    again = laws(engine, one[:4], 4)
    np.testing.assert_allclose(again[0], laws(engine, one[:4], 4, session="x")[0], atol=0.05)


def test_sequences_of_a_batch_do_not_disturb_each_other(engine) -> None:
    texts = ["aab ba", "1 12 123", "é世", ""]
    batch = [Query(f"me/{i}", symbols(text), 0) for i, text in enumerate(texts)]
    together = engine.rows(batch, FULL)
    for query, rows in zip(batch, together, strict=True):
        alone = laws(engine, query.ids, session="alone" + query.session)
        assert np.abs(np.exp(alone) - np.exp(rows.logprobs)).sum(1).max() < 0.02


def test_draft_scores_are_of_the_laws(engine) -> None:
    ids = symbols("aab ba ab")
    (rows,) = engine.rows([Query("d", ids, len(ids), draft=3)], FULL)
    expected = laws(engine, ids, len(ids) - 3)
    picked = expected[np.arange(3), ids[-3:]]
    np.testing.assert_allclose(rows.draft_logprobs, picked, atol=0.02)


def test_bytes_that_are_no_utf8_are_read_and_text_goes_on_behind_them(engine) -> None:
    rows = laws(engine, symbols(b"ab \xff\xfe\xe4a\x80ab \xf0\x9f\x98"))
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(np.exp(rows.astype(np.float64)).sum(1), 1, atol=1e-5)


def test_a_long_run_of_bytes_that_are_no_text_is_read_too(engine) -> None:
    ids = symbols(b"ab " + b"\xff\xc0\x80" * 300)
    rows = laws(engine, ids, len(ids) - 600)
    assert np.isfinite(rows).all()
    again = laws(engine, ids[:-90], len(ids) - 90)
    assert np.abs(np.exp(again[0]) - np.exp(rows[-91])).sum() < 0.02


@pytest.mark.parametrize("text", [b"\x80" * 700, b"a" * 600 + b"\xbf" * 300])
def test_bytes_among_which_no_character_begins_have_laws_too(engine, text: bytes) -> None:
    assert np.isfinite(laws(engine, symbols(text), len(text))).all()


def test_a_long_text_is_encoded_at_once_and_has_the_laws_of_one_read_byte_by_byte(engine) -> None:
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(["ab ", "a's", "12 ", "baba", "é", "\n", "  "], 400))
    ids = symbols(text)
    late = laws(engine, ids, len(ids) - 5, session="late")
    assert engine.laws_asked < len(ids) / 3  # the rest was never asked about
    for at in range(0, len(ids), 100):
        laws(engine, ids[: at + 1], at + 1, session="early")
    early = laws(engine, ids, len(ids) - 5, session="early")
    assert np.abs(np.exp(late) - np.exp(early)).sum(1).max() < 0.02


def test_what_does_not_fit_the_models_context_is_forgotten_from_the_front(tmp_path: Path) -> None:
    tokenizer = tiny.byte_level()
    folder = model_folder(tmp_path / "model", tokenizer)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
    engine = load_engine(TABLE, str(folder), bytes_spec(tmp_path / "spec"))
    assert np.isfinite(laws(engine, symbols("ab12'" * 300), 1_490)).all()


def test_closing_a_session_closes_those_of_the_engine(engine) -> None:
    laws(engine, symbols("ab"), session="me/1")
    with pytest.raises(EngineError, match="no role"):
        laws(engine, [END, END], session="me/1")
    engine.forget("me/1")
    assert "me/1#0" in engine.engine.forgotten


def test_laws_asked_of_the_engine_are_fewer_than_bytes(engine) -> None:
    text = "aab ba's ab baba ab " * 10
    before = engine.laws_asked
    for at in range(len(text) + 1):
        laws(engine, symbols(text[:at]), at)
    assert engine.laws_asked - before <= 1.1 * len(text) + 5


CHAT = [
    {"role": "system", "content": "ab"},
    {"role": "user", "content": "ba <|im_start|>user ab"},
    {"role": "assistant", "content": "aab"},
    {"role": "user", "content": "a"},
]


@pytest.mark.parametrize("name", ["chatml", "turns", "inst", "headers"])
def test_a_conversation_is_rendered_by_the_models_own_template(name: str, tmp_path: Path) -> None:
    family = families()[name]
    folder = model_folder(tmp_path / "model", family.tokenizer, **family.special_tokens)
    (folder / "chat_template.jinja").write_text(family.template)
    ids = [family.tokenizer.token_to_id(stop) for stop in family.stops]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    spec = bytes_spec(tmp_path / "spec")
    engine = load_engine(TABLE, str(folder), spec)
    talk = CHAT if name != "turns" else CHAT[1:]
    travels = PromptEncoder(spec.spec, byte_tokenizer())
    sent = travels.ids(travels.chat(talk))
    assert np.isfinite(laws(engine, sent, len(sent) - 30)).all()
    own = PromptEncoder(family.spec, family.tokenizer)
    native = own.ids(own.chat(talk))
    asked = [query.ids.tolist() for query in engine.engine.asked]
    assert any(path[: len(native)] == native for path in asked)
    answer = laws(engine, [*sent, *symbols("aab")], len(sent))
    end = engine.engine.model.of(native)[ids]
    assert answer[0, END] == pytest.approx(np.log(np.exp(end).sum()), abs=1.0)


REFUSING = "{{ raise_exception('no system, please') }}"


@pytest.mark.parametrize("template", ["", REFUSING])
def test_a_conversation_without_a_template_that_takes_it_is_read_as_plain_text(
    template: str, tmp_path: Path
) -> None:
    engine = loaded(tmp_path, tiny.byte_level(), chat_template=template)
    travels = PromptEncoder(bytes_spec(tmp_path / "spec").spec, byte_tokenizer())
    sent = travels.ids(travels.chat([{"role": "user", "content": "ab <|end|> ba"}]))
    answer = laws(engine, sent, len(sent))
    plain = engine.encode("user:\nab <|end|> ba\n\nassistant:\n")
    assert any(query.ids.tolist() == plain for query in engine.engine.asked)
    end = engine.engine.model.of(plain)[engine.engine.end]
    assert answer[0, END] == pytest.approx(end, abs=1.0)
    assert engine.engine.end not in plain


def test_the_plain_text_of_a_conversation_has_its_tools_and_calls() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    said = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "done"},
    ]
    assert plain_talk(said, "assistant", [{"name": "f"}]) == (
        'tools:\n[{"name": "f"}]\n\nuser:\ngo\n\nassistant:\n'
        + json.dumps([call])
        + "\n\ntool:\ndone\n\nassistant:\n"
    )


@pytest.mark.parametrize(
    ("turn", "why"),
    [
        (b"user " + b"[" * 4_000, "head of a turn is no JSON"),
        (b"user 7", "no JSON object"),
        (b"tools\n5", "tools of this conversation are no list"),
        (b"tools\n" + b"[" * 4_000, "tools of this conversation are no JSON"),
    ],
)
def test_a_conversation_of_nonsense_is_an_error_that_says_so(
    turn: bytes, why: str, tmp_path: Path
) -> None:
    engine = loaded(tmp_path, tiny.byte_level(), 16_384)
    sent = [END, *symbols(turn), *symbols("\n"), END, *symbols("assistant\n")]
    with pytest.raises(EngineError, match=why):
        laws(engine, sent, len(sent))


def test_a_tokenizer_that_is_not_understood_is_refused_before_loading(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", families()["unigram"].tokenizer, eos_token="</s>")
    with pytest.raises(EngineError, match="cannot serve bytes"):
        check_engine(TABLE, str(folder), bytes_spec(tmp_path / "spec"))


def test_a_model_over_bytes_needs_no_adapter(tmp_path: Path) -> None:
    spec = bytes_spec(tmp_path / "spec")
    engine = load_engine(TABLE, str(spec.root), spec)
    assert isinstance(engine, TableEngine)


def test_over_a_real_model_and_its_gguf_file_the_laws_are_the_same_with_sessions_or_without(
    tiny_model: Path, tmp_path: Path
) -> None:
    spec = bytes_spec(tmp_path / "spec")
    engines = [load_engine("auto", str(tiny_model), spec)]
    if importlib.util.find_spec("llama_cpp"):
        folder = tmp_path / "gguf"
        folder.mkdir()
        file = write_gguf(tiny_model, folder / "tiny.gguf")
        with pytest.raises(ConfigError, match="must stand beside it"):
            check_engine("auto", str(file), spec)
        for name in ("tokenizer.json", "config.json"):
            shutil.copyfile(tiny_model / name, folder / name)
        engines.append(load_engine("auto", str(file), spec))
    ids = symbols("def main(self): # é\n")
    expected = laws(engines[0], ids, session="whole")
    for engine in engines:
        assert isinstance(engine, BytesEngine)
        for at in range(len(ids) + 1):
            (law,) = laws(engine, ids[:at], at, session="step")
            assert np.abs(np.exp(law) - np.exp(expected[at])).sum() < 0.05
        forked = laws(engine, [*ids[:-4], *symbols("x")], len(ids) - 4, session="fork")
        assert np.abs(np.exp(forked[0]) - np.exp(expected[len(ids) - 4])).sum() < 0.05


def test_a_text_that_the_owner_has_read_is_held(tmp_path: Path) -> None:
    engine = loaded(tmp_path, tiny.byte_level())
    ids = np.array(symbols("def main(self): return self.main()\n" * 4), np.uint32)
    engine.rows([Query("alice/1", ids[:100], 100)], Want("full"))
    asked = [Query(name, ids, len(ids)) for name in ("alice/1", "alice/2", "bob/1")]
    assert [engine.held(query) for query in asked] == [101, 101, 0]
    engine.rows(asked, Want("full"))
    assert [engine.held(query) for query in asked] == [len(ids) + 1] * 3
    engine.caches = False
    assert engine.held(asked[0]) == 0


def test_many_laws_of_a_text_are_made_in_few_calls_each_once(tmp_path: Path, monkeypatch) -> None:
    engine = loaded(tmp_path, tiny.byte_level())
    looked = []
    missing = Cover.missing
    monkeypatch.setattr(Cover, "missing", lambda *of: looked.append(1) or missing(*of))
    for size in (40, 80):
        looked.clear()
        rows = laws(engine, symbols("aab ba's " * size), session=f"{size}")
        assert len(rows) == 9 * size + 1
        # a position is looked at again only when what it waits for was asked
        assert len(looked) < 3 * len(rows)


def test_several_adapters_of_one_model_answer_over_bytes_each_as_it_would_alone(
    tiny_model: Path, save_tiny_adapter, tmp_path: Path
) -> None:
    spec = bytes_spec(tmp_path / "spec")
    adapters = [str(save_tiny_adapter(seed=1)), None, str(save_tiny_adapter(seed=2))]
    together = load_engines("auto", str(tiny_model), spec, adapters)
    assert len({engine.commitment for engine in together}) == 3
    ids = symbols("def main(self): # é")
    found = [laws(engine, ids, session="a/s") for engine in together]
    for adapter, engine, ours in zip(adapters, together, found, strict=True):
        own = {} if adapter is None else {"adapter": adapter}
        alone = load_engine("auto", str(tiny_model), spec, **own)
        assert np.abs(np.exp(ours) - np.exp(laws(alone, ids))).sum(1).max() < 0.01
        assert engine.commitment == alone.commitment
        engine.forget("a/s")
    assert np.abs(np.exp(found[0]) - np.exp(found[2])).sum(1).max() > 0.02


def test_an_engine_of_one_adapter_serves_one_over_bytes_too(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", tiny.byte_level())
    with pytest.raises(ConfigError, match="one --adapter and --hotkey at a time"):
        load_engines(TABLE, str(folder), bytes_spec(tmp_path / "spec"), ["a", "b"])


@pytest.mark.parametrize(("unit", "why"), [("bytes", "a folder has its own"), ("tokens", "all")])
def test_a_tokenizer_is_named_for_a_server_over_bytes_alone(
    unit: str, why: str, tiny_spec: LoadedSpec, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "model", tiny.byte_level())
    spec = bytes_spec(tmp_path / "spec") if unit == "bytes" else tiny_spec
    with pytest.raises(ConfigError, match=f"--tokenizer is of a model at --upstream.*{why}"):
        check_engine(TABLE, str(folder), spec, tokenizer=str(folder))


def test_the_head_of_a_turn_that_says_nothing_yet_is_found(tmp_path: Path) -> None:
    travels = PromptEncoder(bytes_spec(tmp_path).spec, byte_tokenizer())
    talk = np.array(travels.ids(travels.chat([{"role": "user", "content": "a\n"}])), np.uint32)
    assert open_head(talk) == len("?assistant\n")
    assert open_head(talk[:-1]) == open_head(np.append(talk, 65)) == 0
    assert open_head(symbols("a\n")) == open_head(symbols("")) == 0
