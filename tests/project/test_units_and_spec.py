"""Money text is exact both ways; a spec that differs by one byte is refused."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesubnet.errors import ConfigError, SpecError
from moesubnet.spec.content import load_spec, save_spec
from moesubnet.units import format_rao, max_upscale_u16, parse_rao


@given(st.integers(0, 21 * 10**15))
def test_amounts_survive_a_round_trip(amount_rao: int) -> None:
    assert parse_rao(format_rao(amount_rao)) == amount_rao
    assert parse_rao(f"{amount_rao}rao") == amount_rao


@given(st.integers(0, 2**64 - 1))
def test_a_column_of_amounts_lines_up_and_never_shows_more_than_there_is(amount_rao: int) -> None:
    shown = format_rao(amount_rao, decimals=3)
    assert shown[-6] == "."
    assert amount_rao - 10**6 < parse_rao(shown) <= amount_rao


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.0000000001",
        "-1",
        "nan",
        "inf",
        "1e400",
        "ten",
        "0x10",
        "1.5rao",
        "1,5",
        "1,0000",
        "1,000,5",
    ],
)
def test_an_amount_that_is_not_exact_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_rao(text)


@given(st.lists(st.floats(0, 1e12), max_size=300))
def test_upscaled_weights_have_their_maximum_at_the_top(values: list[float]) -> None:
    scaled = max_upscale_u16(values)
    assert len(scaled) == len(values)
    assert all(0 <= value <= 65_535 for value in scaled)
    assert (max(scaled, default=0) == 65_535) == any(value > 0 for value in values)


def test_a_spec_with_an_altered_file_or_another_hash_is_refused(spec_folder) -> None:
    loaded = load_spec(spec_folder)
    assert load_spec(spec_folder, "0x" + loaded.sha256).spec == loaded.spec
    with pytest.raises(SpecError, match="chain says"):
        load_spec(spec_folder, "00" * 32)
    tokenizer = spec_folder / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    with pytest.raises(SpecError, match="altered"):
        load_spec(spec_folder)
    tokenizer.unlink()
    with pytest.raises(SpecError, match="missing"):
        load_spec(spec_folder)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret", "a/../../b", "..", ".", ".ssh/x", "", "a//b"]
)
def test_a_spec_cannot_name_files_outside_its_folder(spec_folder, path: str) -> None:
    content = json.loads((spec_folder / "spec.json").read_text())
    content["tokenizer"]["path"] = path
    (spec_folder / "spec.json").write_text(json.dumps(content))
    with pytest.raises(SpecError, match="is not a moesubnet-spec/2"):
        load_spec(spec_folder)


def as_version_1(spec_folder, **changes: object):
    """The folder's spec.json, as the first version wrote it."""
    content = json.loads((spec_folder / "spec.json").read_text())
    del content["unit"], content["stop_ids"], content["special_tokens"]
    content |= {"format": "moesubnet-spec/1", "bos_id": None, "eos_id": 7} | changes
    (spec_folder / "spec.json").write_text(json.dumps(content))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@pytest.mark.parametrize(("bos_id", "start"), [(None, 7), (3, 3)])
def test_a_spec_of_version_1_keeps_its_hash_and_is_read_as_version_2(
    spec_folder, bos_id: int | None, start: int
) -> None:
    sha256 = as_version_1(spec_folder, bos_id=bos_id)
    loaded = load_spec(spec_folder, sha256)
    assert loaded.sha256 == sha256
    assert loaded.spec.format == "moesubnet-spec/2"
    assert (loaded.spec.bos_id, loaded.spec.stop_ids, loaded.spec.unit) == (start, (7,), "tokens")
    assert load_spec(spec_folder).spec == loaded.spec
    assert save_spec(spec_folder, loaded.spec).spec == loaded.spec  # written anew: version 2
    assert load_spec(spec_folder).sha256 != sha256


def test_a_spec_of_version_1_without_its_end_is_refused(spec_folder) -> None:
    as_version_1(spec_folder, eos_id=None)
    with pytest.raises(SpecError, match="bos_id"):
        load_spec(spec_folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unit": "words"}, "unit 'words'; this moesubnet mixes tokens or bytes"),
        ({"unit": "bytes"}, "of unit bytes there are 257 symbols"),
        ({"token_units": 4.0}, "a token is one token"),
        ({"format": "moesubnet-spec/3"}, "format 'moesubnet-spec/3'; this moesubnet"),
        ({"stop_ids": [5, 2]}, "ascending"),
        ({"stop_ids": [2, 2]}, "ascending"),
        ({"stop_ids": []}, "stop_ids"),
        ({"stop_ids": [8]}, "8 is not below vocab_size"),
        ({"bos_id": -1}, "bos_id"),
        ({"eos_id": 1}, "eos_id"),
        ({"special_tokens": {"Bos Token": "<s>"}}, "special_tokens"),
        ({"special_tokens": {"bos_token": 1}}, "special_tokens"),
    ],
)
def test_what_a_spec_says_wrongly_is_named(spec_folder, changes: dict, words: str) -> None:
    content = json.loads((spec_folder / "spec.json").read_text()) | changes
    (spec_folder / "spec.json").write_text(json.dumps(content))
    with pytest.raises(SpecError, match=words):
        load_spec(spec_folder)
