"""The unigram baseline: add-one counts with full support, loaded with suspicion."""

import dataclasses

import numpy as np
import pytest

from moesubnet.errors import SpecError
from moesubnet.mixture.baseline import Unigram, load_baseline


def test_add_one_counts_survive_the_disk(tmp_path):
    unigram = Unigram.build(np.array([1, 1, 3]), 5)
    np.testing.assert_allclose(np.exp(unigram.logp), np.array([1, 3, 1, 2, 1]) / 8, rtol=1e-6)
    unigram.save(tmp_path / "unigram.npy")
    loaded = Unigram.load(tmp_path / "unigram.npy")
    np.testing.assert_array_equal(loaded.logp, unigram.logp)
    assert loaded.law.at([1, 1, 4]).tolist() == unigram.logp[[1, 1, 4]].tolist()


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros(5, np.float32),
        np.full(5, -np.inf, np.float32),
        np.full((2, 5), np.log(0.2), np.float32),
        np.full(5, np.log(0.2), np.float64),
        np.array(["x"] * 5),
    ],
)
def test_what_is_no_law_of_the_vocabulary_is_refused(tmp_path, bad):
    np.save(tmp_path / "bad.npy", bad)
    with pytest.raises(SpecError):
        Unigram.load(tmp_path / "bad.npy")


def test_the_baseline_of_a_spec_has_the_spec_s_vocabulary(tiny_spec):
    assert len(load_baseline(tiny_spec).logp) == tiny_spec.spec.vocab_size
    other = tiny_spec.spec.model_copy(update={"vocab_size": 299})
    with pytest.raises(SpecError, match="vocabulary"):
        load_baseline(dataclasses.replace(tiny_spec, spec=other))


def test_pickles_and_garbage_are_refused(tmp_path):
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "garbage.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xffgarbage")
    for name in ("pickle.npy", "garbage.npy", "absent.npy"):
        with pytest.raises(SpecError):
            Unigram.load(tmp_path / name)
