"""Penalties and biases, through the official client."""

import math
from collections import Counter

import numpy as np
import openai
import pytest

from moesubnet.mixture.law import Law, alone
from moesubnet.router.steering import Steering, Wishes
from tests.conftest import TINY_TEXT, TINY_VOCAB

from .conftest import client


def test_penalties_are_openais_formula() -> None:
    """μ_j ← μ_j − c_j·frequency − [c_j > 0]·presence, over what this choice has written."""
    law = alone(Law(np.log(np.array([0.5, 0.25, 0.125, 0.125]))))
    steering = Steering(Wishes({2: 1.5}, frequency_penalty=0.5, presence_penalty=-0.25))
    written = [3, 0, 3, 3, 2]
    for token_id in written:
        steering.push(token_id)
    shaped = steering.shaped(law)
    for token_id in range(4):
        count = Counter(written)[token_id]
        offset = (1.5 if token_id == 2 else 0.0) - 0.5 * count + 0.25 * (count > 0)
        expected = law.law.logp[token_id] + offset
        assert shaped.log_drawn[token_id] == pytest.approx(expected)
    assert Steering(Wishes()).shaped(law) is law


async def test_a_banned_token_is_never_written_and_a_wanted_one_always(serve, tokenizer) -> None:
    api = client(await serve())
    answer = await api.completions.create(
        model="mixture", prompt="the quick", max_tokens=1, temperature=0, logprobs=0
    )
    would_be = tokenizer.encode("the quick" + answer.choices[0].text).ids[-1]
    banned = await api.completions.create(
        model="mixture",
        prompt="the quick",
        max_tokens=1,
        temperature=0,
        logit_bias={str(would_be): -100},
    )
    assert banned.choices[0].text != answer.choices[0].text
    wanted = tokenizer.encode("q").ids[-1]
    answer = await api.chat.completions.create(
        model="mixture",
        messages=[{"role": "user", "content": "the"}],
        max_tokens=5,
        logit_bias={str(wanted): 100},
        logprobs=True,
    )
    assert answer.choices[0].message.content == "qqqqq"
    for token in answer.choices[0].logprobs.content:  # the mixture's own, not the bent ones
        assert token.logprob < math.log(0.02)


async def test_a_penalty_makes_a_repeating_text_stop_repeating(serve, parrot, tokenizer) -> None:
    again = tokenizer.encode("q").ids[-1]
    parrot.ids = [again] * 40
    api = client(await serve())

    async def written(**penalty: float) -> str:
        answer = await api.completions.create(
            model="mixture", prompt="the", max_tokens=16, temperature=0, **penalty
        )
        return answer.choices[0].text

    assert await written() == "q" * 16
    # ln(0.99 / (0.01 / (V − 1))) nats lie between the first and the second best.
    gap = math.log(0.99 * (TINY_VOCAB - 1) / 0.01)
    assert (await written(frequency_penalty=2.0)).startswith("q" * math.ceil(gap / 2.0))
    assert await written(frequency_penalty=2.0) != "q" * 16
    assert await written(presence_penalty=2.0) == "q" * 16


@pytest.mark.parametrize(
    "wish",
    [
        {"frequency_penalty": 2.5},
        {"presence_penalty": -3},
        {"logit_bias": {"1": 101}},
        {"logit_bias": {"a": 1}},
        {"logit_bias": {str(TINY_VOCAB): 1}},
        {"logit_bias": {str(i): 1 for i in range(2000)}},
        {"frequency_penalty": True},
    ],
)
async def test_wishes_out_of_range_are_refused_by_name(serve, wish) -> None:
    api = client(await serve())
    for call in (
        api.completions.create(model="mixture", prompt=TINY_TEXT[:9], extra_body=wish),
        api.chat.completions.create(
            model="mixture", messages=[{"role": "user", "content": "a"}], extra_body=wish
        ),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await call
        assert caught.value.param.split(".")[0] == next(iter(wish))
