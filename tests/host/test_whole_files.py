"""A file is there whole or not at all."""

import resource

import pytest

from moesubnet.host.paths import write_whole


def test_what_does_not_fit_on_the_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "report.json"
    write_whole(path, "first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            write_whole(path, b"x" * 8_192)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
    write_whole(path, "second\n")
    assert path.read_text() == "second\n"
