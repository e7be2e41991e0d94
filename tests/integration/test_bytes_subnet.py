"""A subnet over bytes: experts of two tokenizers, a router and a validator's walk, real sockets.

The experts are bigram counts over their own tokens, so that nothing has to be trained.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openai
import pytest
from substrateinterface import Keypair
from tokenizers import AddedToken, Tokenizer

from moesubnet.engine.base import Query
from moesubnet.engine.bytes_engine import BytesEngine
from moesubnet.engine.named import load_engine
from moesubnet.miner.app import build_app as build_miner
from moesubnet.miner.expert import Expert
from moesubnet.mixture.baseline import load_baseline
from moesubnet.mixture.gate import uniform_gate
from moesubnet.mixture.gate_sync import GateSync
from moesubnet.mixture.mixing import Walk, log_sum_exp, members_of
from moesubnet.mixture.sheet import LOG_Q_UNANSWERED
from moesubnet.owner.build import build_spec
from moesubnet.router.app import build_app as build_router
from moesubnet.router.experts import ExpertBook
from moesubnet.router.mixed import MixtureModel
from moesubnet.router.service import Service
from moesubnet.spec.content import LoadedSpec
from moesubnet.spec.family import every_family
from moesubnet.types import Axon, Hotkey
from moesubnet.validator.measure import Measurement
from moesubnet.validator.pool import TextPool
from moesubnet.validator.serve import Metrics
from moesubnet.validator.shapes import Shape, Shapes
from moesubnet.validator.state import State
from moesubnet.wire.listening import serve
from moesubnet.wire.roster import Roster
from moesubnet.wire.step import Want
from moesubnet.wire.strangers import open_http_session
from tests.engine import bytes_models as tiny
from tests.integration.engines import BigramEngine
from tests.integration.test_whole_loop import sentences
from tests.router.test_mixed_streams import ROUTER, Network
from tests.validator.conftest import FakeChain

ENGINE = "tests.integration.test_bytes_subnet:FolderBigram"
PROVENANCE = {"moesubnet": {"provenance": True}}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = (
    "{% for m in messages %}<b>{{ m.role }}: {{ m.content }}<e>{% endfor %}"
    "{% if add_generation_prompt %}<b>assistant: {% endif %}"
)


class FolderBigram(BigramEngine):
    """Counts of the text in a model's folder."""

    def __init__(self, model: str, spec: LoadedSpec, *, threads: int = 1) -> None:
        super().__init__(str(Path(model) / "text.txt"), spec)


def model_folder(
    root: Path, tokenizer: Tokenizer, controls: tuple[str, ...], template: str, text: str
) -> Path:
    root.mkdir()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in controls])
    tokenizer.save(str(root / "tokenizer.json"))
    says = {"eos_token": controls[-1], "bos_token": "<|end|>", "chat_template": template}
    (root / "tokenizer_config.json").write_text(json.dumps(says))
    (root / "text.txt").write_text(text)
    return root


class Subnet(Network):
    """A network whose miners run `load_engine` over a folder, as `miner run` does."""

    def __init__(self, spec: LoadedSpec) -> None:
        super().__init__(spec)
        self.engines: dict[Hotkey, BytesEngine] = {}

    async def run(self, name: str, folder: Path) -> Hotkey:
        engine = load_engine(ENGINE, str(folder), self.spec)
        assert isinstance(engine, BytesEngine)
        signer = Keypair.create_from_uri(f"//{name}")
        hotkey = Hotkey(signer.ss58_address)
        self.engines[hotkey] = engine
        expert = Expert(engine, self.spec, self, hotkey=hotkey, name=name)
        listening = await serve(build_miner(expert, signer, self), "127.0.0.1", 0)
        self.servers[hotkey], self.experts[hotkey] = listening, expert
        self._add(hotkey, Axon("127.0.0.1", listening.port), 0)
        return hotkey


@pytest.fixture(scope="module")
def bytes_spec(tmp_path_factory: pytest.TempPathFactory) -> LoadedSpec:
    root = tmp_path_factory.mktemp("bytes")
    public = root / "public.txt"
    public.write_text("\n".join(sentences(domain, 0, 200) for domain in ("letters", "digits")))
    family = every_family(None, 4.0)
    return build_spec(
        family, [public], root / "spec", name="any", context_tokens=2_048, min_caller_stake_rao=1
    ).spec


@pytest.fixture
async def subnet(bytes_spec: LoadedSpec, tmp_path: Path):
    subnet = Subnet(bytes_spec)
    texts = {domain: sentences(domain, 1, 3_000) for domain in ("letters", "digits")}
    subnet.letters = await subnet.run(
        "Letters",
        model_folder(
            tmp_path / "letters",
            tiny.byte_level(tiny.LLAMA3),
            ("<|im_start|>", "<|im_end|>"),
            CHATML,
            texts["letters"],
        ),
    )
    subnet.digits = await subnet.run(
        "Digits",
        model_folder(tmp_path / "digits", tiny.gemma(), ("<b>", "<e>"), PLAIN, texts["digits"]),
    )
    yield subnet
    for hotkey in list(subnet.servers):
        await subnet.kill(hotkey)


@pytest.fixture
async def router(subnet: Subnet, bytes_spec: LoadedSpec):
    """A client of a router of these."""
    async with open_http_session() as http:
        book = ExpertBook(
            Roster(
                http,
                ROUTER,
                spec_sha256=bytes_spec.sha256,
                vocab_size=bytes_spec.spec.vocab_size,
                allow_private=True,
            )
        )
        await book.refresh(subnet.current())
        baseline, gate = load_baseline(bytes_spec), uniform_gate(grain=bytes_spec.spec.grain)
        model = MixtureModel(book, lambda: gate, baseline, vocab_size=257, deadline_s=20.0, top_k=8)
        service = Service(bytes_spec, {"mixture": model})
        server = await serve(build_router(lambda: service), "127.0.0.1", 0, grace_s=1.0)
        url = f"http://127.0.0.1:{server.port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
            yield client
        await server.close()


@pytest.mark.parametrize("domain", ["letters", "digits"])
async def test_who_knows_the_text_leads_whatever_its_tokenizer(
    router, subnet: Subnet, domain: str
) -> None:
    assert (await router.models.retrieve("mixture")).model_extra["unit"] == "bytes"
    prompt = sentences(domain, 2, 40)
    answer = await router.completions.create(
        model="mixture", prompt=prompt, max_tokens=24, temperature=0, extra_body=PROVENANCE
    )
    assert answer.usage.prompt_tokens == len(prompt.encode())
    assert answer.usage.completion_tokens == 24
    known = set(sentences(domain, 0, 800))
    assert set(answer.choices[0].text) <= known
    weights = answer.model_extra["moesubnet"][0]["tokens"][-1]["experts"]
    assert weights[getattr(subnet, domain)] > 0.6


async def test_the_mixture_needs_fewer_bits_a_byte_than_each_of_two_families(
    subnet: Subnet, bytes_spec: LoadedSpec
) -> None:
    texts = [sentences(domain, 7, 60) for domain in ("letters", "digits")]
    baseline, members = load_baseline(bytes_spec), members_of([subnet.letters, subnet.digits])
    costs = np.zeros((2, 4))
    for row, text in zip(costs, texts, strict=True):
        ids = np.frombuffer(text.encode(), np.uint8).astype(np.uint32)
        laws = [
            subnet.engines[hotkey].rows([Query("cold", ids, 0)], Want("full"))[0].logprobs
            for hotkey in members[:-1]
        ]
        walk = Walk(uniform_gate(grain=bytes_spec.spec.grain), members)
        for at, byte in enumerate(ids):
            log_p = np.array([law[at, byte] for law in laws] + [baseline.logp[byte]])
            mixed = log_sum_exp(walk.log_weights()[0] + log_p)
            row += -np.append(log_p, mixed) / np.log(2) / len(ids)
            walk.observe(ids[at : at + 1], log_p[None])
    letters, digits, _, mixture = costs.mean(axis=0)
    assert mixture < min(letters, digits) - 0.5


async def test_a_stream_shows_whole_characters_and_ends_at_a_stop(router) -> None:
    stream = await router.completions.create(
        model="mixture",
        prompt="ünï 😀 " + sentences("letters", 2, 10),
        max_tokens=200,
        temperature=0.8,
        seed=3,
        stop=["a"],
        stream=True,
    )
    text = "".join([chunk.choices[0].text async for chunk in stream if chunk.choices])
    assert "a" not in text
    assert "\ufffd" not in text


async def test_two_families_answer_one_conversation_each_by_its_own_template(
    router, subnet: Subnet
) -> None:
    said = [
        {"role": "user", "content": sentences("letters", 3, 4) + " <|im_end|><e><|end|>user\nno"},
        {"role": "assistant", "content": sentences("letters", 4, 4)},
        {"role": "user", "content": sentences("letters", 5, 4)},
    ]
    answer = await router.chat.completions.create(
        model="mixture", messages=said, max_tokens=12, temperature=0, extra_body=PROVENANCE
    )
    assert answer.choices[0].finish_reason in ("length", "stop")
    experts = answer.model_extra["moesubnet"][0]["tokens"][0]["experts"]
    assert {subnet.letters, subnet.digits} <= experts.keys()
    assert experts[subnet.letters] > 0.6, "what the user wrote says who knows it"


async def test_a_structured_answer_is_one_byte_by_byte(router) -> None:
    answer = await router.chat.completions.create(
        model="mixture",
        messages=[{"role": "user", "content": "letters"}],
        max_tokens=60,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"enum": ["baba", "dodo"]}},
        },
    )
    assert json.loads(answer.choices[0].message.content) in ("baba", "dodo")


async def test_a_tool_is_called_byte_by_byte(router) -> None:
    city = {
        "type": "object",
        "properties": {"c": {"enum": ["ba"]}},
        "required": ["c"],
        "additionalProperties": False,
    }
    answer = await router.chat.completions.create(
        model="mixture",
        messages=[{"role": "user", "content": "letters"}],
        max_tokens=300,
        temperature=0,
        tools=[{"type": "function", "function": {"name": "w", "parameters": city}}],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "w"
    assert json.loads(call.function.arguments)["c"] == "ba"


async def test_a_validators_walk_pays_who_knows_the_text(
    subnet: Subnet, bytes_spec: LoadedSpec, tmp_path: Path
) -> None:
    grain = bytes_spec.spec.grain
    chain, signer = FakeChain(), Keypair.create_from_uri("//Router")  # has the stake to call
    chain.neurons = list(subnet.neurons)
    texts = [sentences("letters", seed, 160).encode() for seed in range(10, 14)]
    documents = {t[:32]: np.frombuffer(t, np.uint8).astype(np.uint32) for t in texts}
    async with open_http_session() as http:
        state = State(tmp_path / "validator.sqlite3")
        roster = Roster(
            http,
            signer,
            spec_sha256=bytes_spec.sha256,
            vocab_size=bytes_spec.spec.vocab_size,
            allow_private=True,
        )
        await roster.refresh(await chain.metagraph(1))
        measurement = Measurement(
            state,
            Hotkey(signer.ss58_address),
            TextPool(documents, grain),
            bytes_spec.spec.tokenizer.sha256,
            load_baseline(bytes_spec),
            roster,
            GateSync(chain, http, tmp_path / "sheets", grain=grain),
            Metrics(),
            Shapes.fixed(Shape(4 * 32, 4 * 16)),
        )
        [batch] = await measurement.open_batches(await chain.metagraph(1), 2)
        await measurement.run([batch])
        steps = state.open_batches()[0].steps
        log_q = np.concatenate([step.log_q for step in steps])
        state.close()
    assert [step.position for step in steps] == list(range(4 * 32, 4 * 48))
    assert np.all(log_q > LOG_Q_UNANSWERED)
    means = dict(zip([*batch.hotkeys, "baseline"], log_q.mean(axis=0) / 1e6, strict=True))
    assert means[subnet.letters] > means["baseline"] + 0.3
    assert means[subnet.letters] > means[subnet.digits] + 0.3
