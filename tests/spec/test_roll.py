"""A spec that the owner announces is fetched at once and holds from its epoch on, not before."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from moesubnet.errors import ConfigError
from moesubnet.spec.content import LoadedSpec, load_spec, save_spec
from moesubnet.spec.roll import NextSpec
from moesubnet.types import BlockNumber, Coldkey, Hotkey, Metagraph, NetUid


def changed(spec: LoadedSpec, folder: Path, **says: object) -> LoadedSpec:
    """The same spec but for `says`, in a folder of its own."""
    shutil.copytree(spec.root, folder)
    return save_spec(folder, spec.spec.model_copy(update=says))


def metagraph(epoch: int, spec: LoadedSpec | None, spec_epoch: int = 0) -> Metagraph:
    return Metagraph(
        netuid=NetUid(1),
        block=BlockNumber(30 * epoch + 5),
        block_hash="0x00",
        tempo_blocks=30,
        epoch_index=epoch,
        last_epoch_block=BlockNumber(30 * epoch),
        next_epoch_block=BlockNumber(30 * epoch + 30),
        owner_hotkey=Hotkey("o"),
        owner_coldkey=Coldkey("o"),
        commit_reveal=True,
        spec_sha256=spec.sha256 if spec else None,
        spec_url=spec.root.resolve().as_uri() if spec else None,
        neurons=(),
        spec_epoch=spec_epoch,
    )


@pytest.fixture
def new(tiny_spec: LoadedSpec, tmp_path: Path) -> LoadedSpec:
    return changed(tiny_spec, tmp_path / "new", name="new")


@pytest.fixture(autouse=True)
def _retry_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moesubnet.spec.roll.RETRY_S", 0.01)


async def until(condition) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never came")


async def test_what_is_announced_is_prepared_before_its_epoch_and_taken_once(
    tiny_spec: LoadedSpec, new: LoadedSpec
) -> None:
    prepared: list[str] = []

    def prepare(spec: LoadedSpec) -> str:
        prepared.append(spec.spec.name)
        return "ready"

    following = NextSpec(tiny_spec, prepare, folder=None, allow_private=False)
    for same in (None, tiny_spec):
        following.see(metagraph(3, same))
        assert not following.holds(3)
    following.see(metagraph(3, new, 4))
    await until(lambda: prepared == ["new"])
    following.see(metagraph(3, new, 4))
    assert following.take(3) is None
    assert not following.holds(3)
    assert following.holds(4)
    await until(lambda: following.take(4) == "ready")
    assert following.current.sha256 == new.sha256
    following.see(metagraph(4, new, 4))
    assert (following.take(4), following.holds(4), prepared) == (None, False, ["new"])


async def test_a_spec_that_cannot_be_had_is_told_and_tried_again(
    tiny_spec: LoadedSpec, new: LoadedSpec, tmp_path: Path
) -> None:
    following = NextSpec(tiny_spec, lambda spec: spec, folder=None, allow_private=False)
    new.root.rename(tmp_path / "away")
    following.see(metagraph(3, new, 4))
    await until(lambda: following.problem is not None)
    assert "cannot read" in following.problem
    assert following.holds(4)
    assert following.take(4) is None
    (tmp_path / "away").rename(new.root)
    await until(lambda: following.take(4) is not None)
    assert following.problem is None


async def test_who_cannot_serve_under_it_is_told_why(
    tiny_spec: LoadedSpec, new: LoadedSpec
) -> None:
    def refuse(_: LoadedSpec) -> None:
        raise ConfigError("another tokenizer")

    following = NextSpec(tiny_spec, refuse, folder=None, allow_private=False)
    following.see(metagraph(3, new, 4))
    await until(lambda: following.problem == "another tokenizer")
    following.see(metagraph(3, tiny_spec, 4))  # the owner thought better of it
    assert (following.problem, following.holds(4)) == (None, False)


async def test_a_fault_of_ours_in_preparing_is_told_and_ends_nobody(
    tiny_spec: LoadedSpec, new: LoadedSpec
) -> None:
    is_broken = [True]

    def prepare(spec: LoadedSpec) -> str:
        if is_broken[0]:
            raise KeyError("model")
        return "ready"

    following = NextSpec(tiny_spec, prepare, folder=None, allow_private=False)
    following.see(metagraph(3, new, 4))
    await until(lambda: following.problem is not None)
    assert following.problem == "KeyError: 'model'"
    assert following.take(4) is None
    is_broken[0] = False
    await until(lambda: following.take(4) == "ready")


async def test_the_newest_announcement_counts(
    tiny_spec: LoadedSpec, new: LoadedSpec, tmp_path: Path
) -> None:
    newer = changed(tiny_spec, tmp_path / "newer", name="newer")
    following = NextSpec(tiny_spec, lambda spec: spec.spec.name, folder=None, allow_private=False)
    following.see(metagraph(3, new, 4))
    following.see(metagraph(3, newer, 4))
    taken: list[str] = []
    await until(lambda: taken.append(following.take(4)) or taken[-1] is not None)
    assert taken[-1] == "newer"


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_folder_that_holds_it_already_comes_before_the_owner_s_place(
    tiny_spec: LoadedSpec, new: LoadedSpec, is_there: bool
) -> None:
    folder = new.root if is_there else tiny_spec.root
    following = NextSpec(tiny_spec, lambda spec: spec.root, folder=folder, allow_private=False)
    announced = metagraph(3, new, 4)
    if is_there:
        announced = replace(announced, spec_url="http://127.0.0.1:1/nowhere")
    following.see(announced)
    await until(lambda: following.take(4) is not None)
    assert load_spec(following.current.root).sha256 == new.sha256
