"""Other people's programs, pinned, in environments of their own outside the checkout."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from moesubnet.host.paths import cache_dir

INSTALL_TIMEOUT_S = 300
TIMEOUT_S = 120


def python_with(*packages: str) -> Path:
    """The interpreter of an environment that holds these; the test is skipped where none can be
    made."""
    version = f"py{sys.version_info.major}.{sys.version_info.minor}"
    home = cache_dir("contract", "-".join([*packages, version]).replace("==", "-"))
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("uv is not installed here; scripts/test installs it")
    python = home / "bin" / "python"
    made = [uv, "venv", "--quiet", "--clear", "--python", sys.executable, home]
    filled = [uv, "pip", "install", "--quiet", "--python", python, *packages]
    _install(home, packages, made, filled)
    return python


def node_with(*packages: str) -> Path:
    """A folder in which these can be imported, as `python_with`."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not installed here")
    home = cache_dir("contract", "-".join(packages).replace("/", "-"))
    home.mkdir(parents=True, exist_ok=True)
    (home / "package.json").write_text("{}")
    _install(home, packages, ["npm", "install", "--silent", "--no-audit", "--no-fund", *packages])
    return home


def _install(home: Path, packages: Sequence[str], *commands: Sequence[str | Path]) -> None:
    if (home / "complete").exists():
        return
    for command in commands:
        where = home if home.exists() else None
        made = subprocess.run(command, cwd=where, capture_output=True, timeout=INSTALL_TIMEOUT_S)
        if made.returncode != 0:
            pytest.skip(f"{' '.join(packages)} cannot be installed: {made.stderr.decode()[-500:]}")
    (home / "complete").touch()


async def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What a program prints; it must succeed. Its home is `cwd`, and it knows no keys of ours."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), "OPENAI_API_KEY": "any", **(env or {})},
    )
    try:
        out, complaints = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, complaints.decode()[-4000:]
    return out.decode()
