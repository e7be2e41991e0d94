"""`moesubnet spec …`: an owner makes a spec from a model's folder, checks it and publishes it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from moesubnet.cli import build_app as build_cli
from moesubnet.engine.model_folder import check_tokenizer
from moesubnet.errors import ConfigError, MoesubnetError, SpecError
from moesubnet.mixture.baseline import load_baseline
from moesubnet.owner.check import check_spec
from moesubnet.owner.cli import spec_app
from moesubnet.spec.content import LoadedSpec, SpecFile, file_sha256, load_spec, save_spec
from moesubnet.spec.family import read_family
from moesubnet.spec.prompt import PromptEncoder
from moesubnet.spec.source import fetch_spec
from tests.families import TEXT, Family, families, template

SaveModel = Callable[..., Path]


@pytest.fixture
def save_model(tmp_path: Path) -> SaveModel:
    """The folder of a model as transformers saves it, without weights."""

    def save(name: str, config: dict[str, Any] | None = None, **saved: Any) -> Path:
        family, folder = families()[name], tmp_path / "models" / name.replace(" ", "-")
        folder.mkdir(parents=True, exist_ok=True)
        family.tokenizer.save(str(folder / "tokenizer.json"))
        stops = family.spec.stop_ids
        files = {
            "config.json": {
                "eos_token_id": stops[0],
                "bos_token_id": family.spec.bos_id,
                "max_position_embeddings": 4096,
            }
            | (config or {}),
            "generation_config.json": {"eos_token_id": list(stops[:2])},
            "tokenizer_config.json": family.special_tokens
            | {"chat_template": family.template, "add_bos_token": True}
            | saved,
        }
        for file, content in files.items():
            (folder / file).write_text(json.dumps(content))
        return folder

    return save


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "public.jsonl"
    rows = [{"domain": "fox", "text": TEXT}, {"text": "  "}, {"text": "the fox " * 500}]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def spec_command(*arguments: object) -> Result:
    return CliRunner().invoke(spec_app, [str(argument) for argument in arguments])


def made(save_model: SaveModel, text: Path, name: str, **model: Any) -> LoadedSpec:
    out = text.parent / f"spec of {name}"
    result = spec_command("new", "--from", save_model(name, **model), "--text", text, "--out", out)
    assert result.exit_code == 0, (result.output, result.exception)
    return load_spec(out)


def refusal(*arguments: object, kind: type[MoesubnetError] = ConfigError) -> str:
    result = spec_command(*arguments)
    assert isinstance(result.exception, kind), result.output
    return str(result.exception)


@pytest.mark.parametrize("name", sorted(families()))
def test_a_spec_says_what_the_model_says(save_model: SaveModel, text: Path, name: str) -> None:
    family, loaded = families()[name], made(save_model, text, name)
    said, wanted = loaded.spec, family.spec
    assert said.name == name.replace(" ", "-")
    assert said.vocab_size == wanted.vocab_size
    assert (said.bos_id, said.context_tokens) == (wanted.bos_id, 4096)
    assert set(wanted.stop_ids[:2]) <= set(said.stop_ids) <= set(wanted.stop_ids)
    assert said.special_tokens == family.special_tokens
    assert said.min_caller_stake_rao == 10**9
    check_tokenizer(text.parent / "models" / said.name, loaded)  # such a model may join
    encoder = PromptEncoder(said, family.tokenizer)
    messages = [{"role": "user", "content": "the fox"}]
    assert encoder.chat(messages).text == family.transformers().apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    assert check_spec(loaded).problems == []
    counts = np.bincount(family.tokenizer.encode(TEXT, add_special_tokens=False).ids)
    more = np.bincount(family.tokenizer.encode("the fox " * 500, add_special_tokens=False).ids)
    logp = load_baseline(loaded).logp
    likeliest = int(np.argmax(logp))
    assert likeliest == int(np.argmax(more))
    total = counts.sum() + more.sum() + said.vocab_size
    hits = (counts[likeliest] if likeliest < len(counts) else 0) + more[likeliest] + 1
    assert logp[likeliest] == pytest.approx(np.log(hits / total), abs=1e-5)


def test_the_end_of_a_turn_is_a_stop_even_where_only_the_template_knows_it(
    save_model: SaveModel,
) -> None:
    folder = save_model("chatml", {"eos_token_id": None}, eos_token="<|endoftext|>")
    (folder / "generation_config.json").unlink()
    family = read_family(str(folder))
    ids = families()["chatml"].tokenizer.token_to_id
    assert family.stops == {
        ids("<|endoftext|>"): ["tokenizer_config.json"],
        ids("<|im_end|>"): ["chat template"],
    }


def test_a_family_without_bos_begins_as_its_config_says_or_with_its_lowest_stop(
    save_model: SaveModel,
) -> None:
    ids = families()["chatml"].tokenizer.token_to_id
    folder = save_model("chatml", {"bos_token_id": ids("<|im_start|>")})
    assert read_family(str(folder)).bos_id == ids("<|im_start|>")
    folder = save_model("chatml", {"bos_token_id": None})
    assert read_family(str(folder)).bos_id == min(ids("<|im_end|>"), ids("<|endoftext|>"))


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"model_type": "gpt2", "n_positions": 1024}, 1024),  # by another name
        ({"model_type": "gemma3", "text_config": {"num_hidden_layers": 2}}, 131_072),  # the usual
        ({"model_type": "xlnet"}, None),  # -1: as many as one likes
        ({"model_type": "of tomorrow", "max_position_embeddings": 96}, 96),
    ],
)
def test_how_much_a_family_reads_is_known_however_its_config_says_it(
    save_model: SaveModel, config: dict[str, Any], longest: int | None
) -> None:
    folder = save_model("chatml")
    (folder / "config.json").write_text(json.dumps(config))
    assert read_family(str(folder)).context_tokens == longest


def test_templates_are_found_wherever_transformers_put_them(save_model: SaveModel) -> None:
    folder = save_model("turns", chat_template=[{"name": "default", "template": "{{ 1 }}"}])
    assert read_family(str(folder)).template == "{{ 1 }}"
    (folder / "chat_template.jinja").write_text("{{ 2 }}")
    assert read_family(str(folder)).template == "{{ 2 }}"
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": {"content": "<s>", "special": True}, "eos_token": None})
    )
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "{{ 3 }}"}))
    family = read_family(str(folder))
    assert (family.template, family.special_tokens) == ("{{ 3 }}", {"bos_token": "<s>"})


def test_the_vocabulary_is_no_larger_than_the_models(
    save_model: SaveModel, text: Path, tmp_path: Path
) -> None:
    tokens = families()["turns"].tokenizer.get_vocab_size()
    assert made(save_model, text, "turns", config={"vocab_size": tokens + 64}).spec.vocab_size == (
        tokens
    )
    folder, out = save_model("turns", {"text_config": {"vocab_size": tokens - 1}}), tmp_path / "o"
    text.write_text(json.dumps({"text": "see <b>this</b>"}))
    arguments = ("new", "--from", folder, "--text", text, "--out", out)
    assert "writes token" in refusal(*arguments, kind=SpecError)
    (folder / "tokenizer_config.json").write_text("{}")
    assert "holds '<b>'" in refusal(*arguments)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ nothing_is.defined_here }}", "cannot render a question: 'nothing_is' is undefined"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ messages[0].content }}", 'leaves "She wrote .* out of a second question'),
        ("{{ raise_exception('never') }}", "cannot render a question: never"),
        ("{{ messages[0].content | upper }}", "leaves 'Who was Ada.' out"),
    ],
)
def test_a_template_that_does_not_work_is_refused_when_the_spec_is_made(
    save_model: SaveModel, text: Path, source: str, words: str
) -> None:
    out = text.parent / "out"
    folder = save_model("turns", chat_template=source)
    said = refusal("new", "--from", folder, "--text", text, "--out", out, kind=SpecError)
    assert re.search(words, said), said
    assert not out.exists()


def test_what_a_template_may_refuse_is_noted(save_model: SaveModel, text: Path) -> None:
    source = template("turns").replace(
        "first_user_prefix = messages[0]['content'] + '\\n\\n'",
        "first_user_prefix = raise_exception('System role not supported')",
    )
    folder = save_model("turns", chat_template=source)
    result = spec_command("new", "--from", folder, "--text", text, "--out", text.parent / "out")
    assert result.exit_code == 0
    assert "note: the template refuses a system message: System role not supported" in result.output


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("chatml", ("", ""), None),
        ("headers", ("", ""), None),
        ("turns", ("", ""), "the template writes no calls of tools as JSON: tools will be refused"),
        (
            "chatml",
            ("message.content + '\\n</tool", "message.content.append(1) + '\\n</tool"),
            "the template refuses a call of a tool with its answer: ",
        ),
        (
            "chatml",
            ("{{- tool | tojson }}", "{{- tool }}{{- raise_exception('no tools') }}"),
            "the template writes no calls of tools as JSON: tools will be refused",
        ),
        (
            "chatml",
            ("+ message.content + '\\n</tool_response>", "+ '\\n</tool_response>"),
            "out of a call of a tool with its answer",
        ),
    ],
)
def test_whether_tools_can_be_called_is_known_when_the_spec_is_made(
    save_model: SaveModel, text: Path, family: str, change: tuple[str, str], words: str | None
) -> None:
    source = template(family)
    assert change[0] in source
    folder = save_model(family, chat_template=source.replace(*change) if change[0] else source)
    result = spec_command("new", "--from", folder, "--text", text, "--out", text.parent / "out")
    assert result.exit_code == 0, result.output
    notes = [" ".join(note.split()) for note in result.output.split("note:")[1:]]
    said = [note for note in notes if "tool" in note.replace(str(text.parent), "")]
    assert any(words in note for note in said) if words else not said, notes


def test_what_cannot_become_a_spec_is_refused_with_the_way_out(
    save_model: SaveModel, text: Path, tmp_path: Path
) -> None:
    folder, out = save_model("turns"), tmp_path / "out"
    common = ("--text", text, "--out", out)
    assert "owner/name" in refusal("new", "--from", "no/such/folder", *common)
    assert "gguf_file='m.gguf'" in refusal("new", "--from", tmp_path / "m.gguf", *common)
    assert "made for 4,096" in refusal("new", "--from", folder, *common, "--context", 8192)
    assert "no file matches" in refusal("new", "--from", folder, "--text", "x*", "--out", out)
    (tmp_path / "empty.jsonl").write_text('{"text": " "}\n')
    empty = ("--text", tmp_path / "empty.jsonl", "--out", out)
    assert "public text is empty" in refusal("new", "--from", folder, *empty)
    assert spec_command("new", "--from", folder, *common).exit_code == 0
    assert "not written over" in refusal("new", "--from", folder, *common)
    (folder / "tokenizer.json").unlink()
    assert "save_pretrained" in refusal("new", "--from", folder, *common)
    nothing = save_model("turns", {"eos_token_id": None}, eos_token=None, chat_template="")
    (nothing / "generation_config.json").unlink()
    assert "where a text ends" in refusal("new", "--from", nothing, *common)


def test_a_tokenizer_whose_text_cannot_be_streamed_is_refused(
    save_model: SaveModel, text: Path
) -> None:
    folder = save_model("turns")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["decoder"] = {"type": "BPEDecoder", "suffix": "</w>"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    arguments = ("new", "--from", folder, "--text", text, "--out", text.parent / "out")
    assert "cannot be streamed" in refusal(*arguments, kind=SpecError)


def test_check_finds_what_a_hand_has_broken(save_model: SaveModel, text: Path) -> None:
    loaded = made(save_model, text, "turns")
    assert "is sound" in spec_command("check", loaded.root).output
    (loaded.root / "bad.jsonl").write_text("the fox")
    bad = SpecFile(path="bad.jsonl", sha256=file_sha256(loaded.root / "bad.jsonl"))
    for changes, words in (
        ({"chat_template": "{{ x.y }}"}, "cannot render a question"),
        ({"vocab_size": 100_000}, "baseline is of another vocabulary"),
        ({"public_text": bad}, "not JSON lines"),
        ({"chat_template": ""}, ""),
    ):
        save_spec(loaded.root, loaded.spec.model_copy(update=changes))
        result = spec_command("check", loaded.root, "--json")
        problems = json.loads(result.stdout)["problems"]
        assert (result.exit_code, words in " ".join(problems)) == (1 if words else 0, True)


def test_show_says_it_to_people_and_to_machines(save_model: SaveModel, text: Path) -> None:
    loaded = made(save_model, text, "turns")
    shown = spec_command("show", loaded.root).output
    for words in (loaded.sha256, "<end_of_turn>", "  | <s><start_of_turn>user", "4,096 tokens"):
        assert words in shown
    facts = json.loads(spec_command("show", loaded.root, "--json").stdout)
    assert facts["sha256"] == loaded.sha256
    assert facts["stop_ids"] == list(loaded.spec.stop_ids)


async def test_a_served_spec_is_fetched_as_strangers_fetch_it_and_nothing_else_is(
    save_model: SaveModel, text: Path, tmp_path: Path
) -> None:
    import aiohttp

    loaded = made(save_model, text, "turns")
    (loaded.root / "secret.txt").write_text("mine")
    arguments = ["-m", "moesubnet", "spec", "serve", str(loaded.root)]
    server = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, "--host", "127.0.0.1", "--port", "0", stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        said = (await server.stdout.readline()).decode() + (await server.stdout.readline()).decode()
        port = int(said.split("on 127.0.0.1:")[1].split(";")[0])
        assert f"--url http://127.0.0.1:{port}" in said
        url, copy = f"http://127.0.0.1:{port}/", tmp_path / "fetched"
        await fetch_spec(url, loaded.sha256, copy, allow_private=True)
        assert load_spec(copy).sha256 == loaded.sha256
        async with aiohttp.ClientSession() as http:
            for path in ("secret.txt", "", "%2e%2e/secret.txt", "spec.json.tmp"):
                async with http.get(url + path) as response:
                    assert response.status == 404
    finally:
        server.send_signal(signal.SIGTERM)
        assert await server.wait() == 0


def test_a_large_vocabulary_takes_one_pass(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {f"w{i}": i for i in range(262_144)}
    tokenizer = Tokenizer(models.WordLevel(vocab | {"</s>": len(vocab)}, unk_token="w0"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Whitespace(), decoders.Fuse()
    tokenizer.add_special_tokens(["</s>"])
    large = Family("large", tokenizer, "", "</s>", ("</s>",), {"eos_token": "</s>"})
    folder = tmp_path / "large"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(large.special_tokens))
    (tmp_path / "a.txt").write_text("w7 w8 " * 1_000)
    arguments = ("--from", folder, "--text", tmp_path / "*.txt", "--out", tmp_path / "out")
    result = spec_command("new", *arguments, "--json")
    assert result.exit_code == 0, result.output
    assert "say little about 262,145 tokens" in result.output
    loaded = load_spec(tmp_path / "out")
    assert loaded.spec.vocab_size == 262_145
    assert set(np.argsort(load_baseline(loaded).logp)[-2:]) == {7, 8}


def test_a_spec_that_only_this_machine_could_read_is_not_published(
    save_model: SaveModel, text: Path
) -> None:
    loaded = made(save_model, text, "turns")

    def refused(*more: str) -> str:
        arguments = ["subnet", "set-spec", "3", "--spec", str(loaded.root), *more]
        result = CliRunner().invoke(build_cli(), [*arguments, "--chain", "wss://chain.example.org"])
        assert isinstance(result.exception, ConfigError), result.output
        return str(result.exception)

    assert f"moesubnet spec serve {loaded.root}" in refused()
    assert "nobody could fetch it" in refused("--url", "ftp://example.org/spec")


@pytest.mark.parametrize("name", [None, "chatml"])
def test_a_spec_over_bytes_takes_any_model(
    save_model: SaveModel, text: Path, name: str | None
) -> None:
    out = text.parent / "any"
    base = () if name is None else ("--from", save_model(name))
    result = spec_command("new", "--unit", "bytes", *base, "--text", text, "--out", out)
    assert result.exit_code == 0, (result.output, result.exception)
    said = load_spec(out).spec
    assert (said.unit, said.vocab_size, said.bos_id, said.stop_ids) == ("bytes", 257, 256, (256,))
    ids = families()["chatml"].tokenizer.encode(TEXT + "the fox " * 500).ids
    mean = 4.3 if name is None else len((TEXT + "the fox " * 500).encode()) / len(ids)
    assert said.token_units == pytest.approx(mean, abs=0.05)
    assert said.context_tokens == round((8_192 if name is None else 4_096) * said.token_units)
    assert check_spec(load_spec(out)).problems == []
    assert "to a mean token" in spec_command("show", out).output
    assert "--unit bytes" in refusal("new", "--text", text, "--out", text.parent / "other")
