"""The wheel built from this tree, alone in a new environment, runs the command line."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(UV is None, reason="uv is not installed here; scripts/test installs it")
def test_the_wheel_alone_in_an_empty_environment_runs_the_command_line(tmp_path: Path) -> None:
    assert UV is not None
    # Built from a copy of what git knows, so that nothing lying about gets in.
    tree = tmp_path / "tree"
    files = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, files):
        if not name.startswith(("chain_pallet/", "tests/")) and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    run(UV, "build", "--wheel", "--out-dir", tmp_path, cwd=tree)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"moesubnet"}
    for wanted in ("miner/app.py", "router/app.py", "chain/devchain/blob.py", "py.typed"):
        assert f"moesubnet/{wanted}" in names
    assert any(name.endswith(".wasm") for name in names)

    run(UV, "venv", "--python", sys.executable, "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    run(UV, "pip", "install", "--python", python, wheel, cwd=tmp_path)
    assert "miner" in run(tmp_path / "env" / "bin" / "moesubnet", "--help", cwd=tmp_path)
    wallets = tmp_path / "wallets"
    listed = run(
        *(python, "-m", "moesubnet", "wallet", "list", "--wallets", wallets, "--json"), cwd=tmp_path
    )
    assert listed.strip()
