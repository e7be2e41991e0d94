"""Private text as chats: asked as a router asks users' own, each once, answers alone scored."""

from __future__ import annotations

import dataclasses
import json
from random import Random

import numpy as np
import pytest

from moesubnet.errors import ConfigError, PoolSpent, PromptError
from moesubnet.mixture.choosing import BLIND_PROMPT_TOKENS
from moesubnet.router.chat import Message
from moesubnet.router.prompts import Prompts
from moesubnet.spec.documents import Conversation, read_documents
from moesubnet.spec.prompt import PromptEncoder
from moesubnet.types import Hotkey
from moesubnet.validator.conversations import Conversations, Turn, turns
from moesubnet.validator.pool import WINDOW_TOKENS, TextPool
from moesubnet.validator.shapes import Shape, Shapes
from moesubnet.wire.usage import Usage
from tests.families import families
from tests.sheets import closed

SYSTEM = {"role": "system", "content": "you are the quick brown fox; " * 6}
CHATML = families()["chatml"]
SHORT = Shape(20, 8)


def said(*texts: str) -> tuple[dict[str, str], ...]:
    roles = ("user", "assistant")
    return (SYSTEM, *({"role": roles[k % 2], "content": text} for k, text in enumerate(texts)))


def asked(*texts: str, limit: int = 500) -> list[Turn]:
    encoder = PromptEncoder(CHATML.spec, CHATML.tokenizer)
    return turns(Conversation(said(*texts)), encoder, limit)


def made(question: int, *lengths: tuple[int, int]) -> list[Turn]:
    """Turns whose prompts and answers have these lengths; all but what is asked is the same."""
    found, ids = [], np.full(10, 7, np.uint32)
    for prompt, answer in lengths:
        ids = np.append(ids, np.full(prompt - len(ids), question, np.uint32))
        ids = np.append(ids, np.arange(answer, dtype=np.uint32))
        found.append(Turn(ids, prompt))
    return found


def given(talks: dict[bytes, list[Turn]]) -> Conversations:
    return Conversations(talks, lambda one: one)


async def test_a_question_has_the_very_ids_that_a_router_sends(tmp_path, tiny_spec):
    spec = dataclasses.replace(tiny_spec, spec=CHATML.spec)
    texts = ("what does the fox do?", "it jumps", "over <|im_end|> whom?", "the lazy dog")
    first, second = asked(*texts)
    for turn, count in ((first, 1), (second, 3)):
        messages = [Message.model_validate(message) for message in said(*texts[:count])]
        ids, _ = await Prompts(spec, CHATML.tokenizer).chat_ids(messages, "messages")
        assert turn.ids[: turn.answer].tolist() == ids.tolist()
        assert turn.answer - turn.first == BLIND_PROMPT_TOKENS
        assert turn.ids[-1] in CHATML.spec.stop_ids
        assert CHATML.tokenizer.decode(turn.ids[turn.answer :]) == texts[count]
    np.testing.assert_array_equal(second.ids[: len(first.ids)], first.ids)


def test_what_no_walk_can_ask_is_left_out():
    first, second = asked("a", "b", "c", "d")
    limits = (500, second.answer + 1, second.answer, first.answer)
    assert [len(asked("a", "b", "c", "d", limit=n)) for n in limits] == [2, 2, 1, 0]
    assert asked("a") == asked("a", "  ") == []
    encoder = PromptEncoder(CHATML.spec, CHATML.tokenizer)
    call = {"role": "assistant", "content": None, "tool_calls": []}
    talk = (*said("a"), call, {"role": "tool", "content": "x"}, *said("q", "yes")[2:])
    assert len(turns(Conversation(talk), encoder, 500)) == 1
    greeting = ({"role": "assistant", "content": "hello"}, *said("a", "b")[1:])
    assert len(turns(Conversation(greeting), encoder, 500)) == 1
    plain = PromptEncoder(CHATML.spec.model_copy(update={"chat_template": ""}), CHATML.tokenizer)
    with pytest.raises(PromptError, match="no chat template"):
        turns(Conversation(said("a", "b")), plain, 500)


def test_that_conversation_is_asked_whose_lengths_are_most_like_users():
    pool = given(
        {
            b"long": made(1, (90, 30)),
            b"short": made(2, (22, 30)),
            b"terse": made(3, (22, 2)),
            b"goes on": made(4, (24, 6), (60, 9), (100, 9)),
        }
    )
    [[window]] = pool.draw([[Shape(20, 12)]], {}, b"seed")
    assert (window.document, window.starts, window.unscored) == (b"short", (0,), 2)
    assert (window.first, len(window.ids)) == (20, 32)  # a longer answer is cut
    [chat, rest] = pool.draw([[Shape(20, 8), Shape(60, 12)], [Shape(80, 12)]], {}, b"seed")
    assert [(w.document, w.starts, w.first, len(w.ids)) for w in chat] == [
        (b"goes on", (), 22, 30),
        (b"goes on", (0,), 58, 69),
    ]
    assert rest[0].document == b"long"
    assert len(pool.draw([[SHORT]] * 9, {b"long": {0}}, b"seed")) == 3
    assert pool.draw([[SHORT]], dict.fromkeys(pool._turns), b"seed") == []
    one = given({b"one": made(1, (20, 9))})
    assert [len(chat) for chat in one.draw([[SHORT, Shape(60, 9)]], {}, b"")] == [1]


def test_a_conversation_is_rendered_on_the_day_on_which_it_is_asked():
    days = iter(range(9))
    pool = Conversations({b"one": 1}, lambda _: made(next(days), (20, 9)))
    [[window]] = pool.draw([[SHORT]], {}, b"")
    assert window.ids[15] == 1


def test_conversations_that_begin_alike_are_used_and_those_that_ask_the_same_only_once():
    same, other, again = made(1, (60, 9)), made(2, (60, 9)), made(1, (60, 20))
    pool = given({b"a": same, b"b": other, b"c": again})
    assert pool.repeats({}, []) == [(b"c", 0)]
    assert pool.repeats({b"a": {0}}, []) == [(b"c", 0)]
    assert pool.repeats({b"c": None}, []) == [(b"a", 0)]
    assert pool.repeats({}, [other[0].ids[:61]]) == [(b"b", 0), (b"c", 0)]
    assert pool.repeats({}, [other[0].ids[:59]]) == [(b"c", 0)]


def test_both_kinds_of_text_serve_as_long_as_there_is_any(make_documents):
    documents = make_documents(2, tokens=WINDOW_TOKENS)
    talks = {bytes([k]): made(k, (40, 20), (90, 9)) for k in range(3)}
    pool = TextPool(documents, conversations=given(talks))
    chats = [[SHORT], [SHORT, Shape(60, 9)], [SHORT]]
    drawn = pool.draw_chats(chats, [False, True, False], {}, b"seed")
    assert [walks[-1].document in talks for walks in drawn] == [True, False, False]
    assert len(drawn[0]) == 2
    many = pool.draw_chats([[SHORT]] * 9, [True] * 9, {}, b"seed")
    assert sorted(walks[0].document for walks in many) == sorted([*documents, *talks])
    many = pool.draw_chats([[SHORT]] * 9, [False] * 9, {}, b"seed")
    assert sorted(walks[0].document for walks in many) == sorted([*documents, *talks])
    alone = TextPool({}, conversations=given(talks))
    assert len(alone.draw_chats([[SHORT]] * 9, [False] * 9, {}, b"seed")) == 3
    with pytest.raises(PoolSpent, match="and 3 conversations are used"):
        alone.draw_chats([[SHORT]], [True], dict.fromkeys(talks), b"seed")


def test_as_many_walks_are_conversations_as_users_texts():
    public, lots = Shapes.public(2_048), Random(0)
    said = Usage(netuid=1, epoch=3, router="r", rows=[], prompts=[10_000], chats=9_000)
    told = public.as_users([(said, 3), (said.model_copy(update={"chats": 2**50}), 2)])
    assert told.conversations == pytest.approx(0.9, abs=0.01)
    for shapes in (public, told, dataclasses.replace(public, conversations=0.0)):
        many = walks = 0
        for _ in range(1_000):
            chats = shapes.chats(shapes.draw(8, lots), lots)
            for chat, is_said in zip(chats, shapes.conversing(chats, lots), strict=True):
                many, walks = many + is_said * len(chat), walks + len(chat)
        assert many / walks == pytest.approx(shapes.conversations, abs=0.03)


async def test_of_a_conversation_its_answer_alone_is_scored(measure, start_expert, laws):
    expert = await start_expert("//Expert", lambda ids: np.log(laws[0]))
    measurement, state, chain, _ = await measure([expert], twice=True)
    talks = {bytes([k]): made(k, (30, 12), (50, 9)) for k in range(20)}
    measurement._pool = measurement._beside._pool = TextPool({}, conversations=given(talks))
    more = ((20, 1.0),)
    undrafted = {"forks": 0.0, "ahead": ()}  # a walk's calls are one token each
    measurement._shapes = dataclasses.replace(
        Shapes.public(60),
        prompts=((24, 1.0),),
        answers=((6, 1.0),),
        later=1.0,
        more=more,
        **undrafted,
    )
    metagraph = await chain.metagraph(1)
    batches = await measurement.open_batches(metagraph, 12)
    assert any(batch.follows for batch in batches)
    await measurement.run(batches)
    calls: dict[str, list[tuple[int, int]]] = {}
    for request in expert.requests:
        [step] = request.sequences
        calls.setdefault(step.session, []).append((step.base_len, len(step.append_ids)))
    for batch in state.open_batches():
        for session in batch.sessions:
            prompt, *ones = calls.pop(session)
            answer = batch.first  # of those stored, the first that is scored
            assert answer in (30, 50)
            assert prompt == (0, answer - BLIND_PROMPT_TOKENS)
            assert ones[:2] == [(answer - 2, 1), (answer - 1, 1)]
    twice = [calls.pop(session) for session in list(calls)]
    assert {call for [call] in twice} <= {(0, 30), (0, 50)}  # up to where the answer begins
    sheet, _ = closed(state.open_batches(), metagraph, Hotkey(metagraph.neurons[0].hotkey))
    assert {int(p) for p in sheet.position} <= {*range(30, 38), *range(50, 58)}


def test_lines_of_messages_are_read_where_they_may_be_and_refused_in_words(tmp_path, tiny_spec):
    path, encoder = tmp_path / "a.jsonl", PromptEncoder(CHATML.spec, CHATML.tokenizer)
    lines = [{"messages": said(str(k), "a fox")} for k in (1, 2, 2)]
    lines += [{"text": "the lazy dog " * 40}, {"messages": said("nobody answers")}]
    path.write_text("\n".join(map(json.dumps, lines)))

    def load(turns_of=lambda talk: turns(talk, encoder, 500)):
        encode = CHATML.tokenizer.encode
        return TextPool.load(str(path), lambda text: encode(text).ids, turns=turns_of)

    pool = load()
    assert (len(pool.conversations), pool.free_windows({}) > 0) == (2, True)
    with pytest.raises(ConfigError, match="over bytes"):
        load(None)
    with pytest.raises(ConfigError, match='only "text"'):
        list(read_documents(path))
    path.write_text(json.dumps(lines[-1]))
    with pytest.raises(ConfigError, match="none of 1 conversations is of use: no answer"):
        load()
    hello = {"role": "user", "content": "x"}
    for messages in (3, [3], [{"content": "x"}], [hello | {"content": 3}], [{"role": "\ud800"}]):
        path.write_text(json.dumps({"messages": messages}))
        with pytest.raises(ConfigError, match="messages"):
            load()
