"""What an operator sees of a running router."""
# ruff: noqa: F811  # fixtures of another module, as arguments

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from moesubnet.router.app import build_app
from moesubnet.router.ledger import Usage
from moesubnet.router.metrics import Metrics
from moesubnet.router.service import Service
from moesubnet.spec.content import LoadedSpec
from moesubnet.wire.listening import serve as listen
from tests.router.conftest import ParrotSession, client
from tests.router.test_mixed_streams import Network, network, open_model, sharp  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "examples" / "operate" / "grafana-router.json"
UNIT = ROOT / "examples" / "operate" / "moesubnet-router.service"

Serve = Callable[..., Any]


def samples(text: str) -> dict[tuple[str, ...], float]:
    """By name and label values, in the order of the labels' names."""
    return {
        (sample.name, *dict(sorted(sample.labels.items())).values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def fetch(url: str, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


async def test_requests_tokens_times_and_weights_are_counted(serve: Serve) -> None:
    url = await serve()
    stream = await client(url).completions.create(
        model="mixture", prompt="the quick", max_tokens=6, stream=True
    )
    async for _ in stream:
        pass
    await client(url).completions.create(model="mixture", prompt="the quick", max_tokens=5)
    await fetch(f"{url}/v1/nothing")
    status, text = await fetch(f"{url}/metrics")
    found = samples(text)
    assert status == 200
    assert found["moesubnet_router_requests_total", "/v1/completions", "200"] == 2
    assert found["moesubnet_router_requests_total", "other", "404"] == 1
    assert found["moesubnet_router_tokens_total", "completion", "mixture"] == 11
    assert found["moesubnet_router_first_token_seconds_count", "mixture"] == 2
    assert found["moesubnet_router_between_tokens_seconds_count", "mixture"] == 9
    assert found["moesubnet_router_overhead_seconds_count", "mixture"] == 2
    assert found["moesubnet_router_expert_weight_total", "parrot"] == pytest.approx(11 * 0.75)
    assert found["moesubnet_router_running",] == 0


async def test_an_answer_says_what_the_router_itself_took(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its time but what it waited for experts."""
    own_s, expert_s = 0.1, 0.4
    start = ParrotSession.start

    async def slow(session: ParrotSession, *given: Any) -> Any:
        await asyncio.sleep(own_s + expert_s)
        session.waited_s += expert_s
        return await start(session, *given)

    monkeypatch.setattr(ParrotSession, "start", slow)
    url = await serve()
    for stream in (False, True):
        since_s = time.monotonic()
        raw = await client(url).completions.with_raw_response.create(
            model="mixture", prompt="the quick", max_tokens=3, stream=stream
        )
        took_s = time.monotonic() - since_s
        overhead_s = float(raw.headers["x-moesubnet-overhead-ms"]) / 1e3
        assert 0.9 * own_s <= overhead_s <= took_s - 0.9 * expert_s


async def test_metrics_are_for_this_machine_or_for_a_key(serve: Serve) -> None:
    url = await serve(api_keys=["secret"])
    assert (await fetch(f"{url}/metrics"))[0] == 200
    through_a_proxy = {"X-Forwarded-For": "198.51.100.7"}
    assert (await fetch(f"{url}/metrics", **through_a_proxy))[0] == 401
    with_key = through_a_proxy | {"Authorization": "Bearer secret"}
    assert (await fetch(f"{url}/metrics", **with_key))[0] == 200


def test_an_expert_that_left_leaves_no_series_behind() -> None:
    metrics = Metrics()
    for hotkey in ("5Stays", "5Leaves"):
        metrics.expert(hotkey, "valid", 0.2)
        metrics.used(Usage("mixture", 1, 1, 5, {hotkey: (2, 5)}), charged=True)
        metrics.weights({hotkey: 0.5})
    metrics.keep_only({"5Stays"})
    text = metrics.text().decode()
    assert "5Stays" in text
    assert "5Leaves" not in text


def queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.fixture
async def mixing(
    spec: LoadedSpec, network: Network, open_model: Callable[..., Any]
) -> AsyncIterator[tuple[str, Service]]:
    """A router over one miner, by its URL."""
    await network.mine("only", lambda ids: sharp(5, 0.5))
    model = await open_model()
    service = Service(spec, {"mixture": model}, model.book.metrics)
    server = await listen(build_app(lambda: service), "127.0.0.1", 0, grace_s=1.0)
    yield f"http://127.0.0.1:{server.port}", service
    await server.close()


async def test_what_an_expert_takes_and_what_is_drafted_is_told(
    mixing: tuple[str, Service],
) -> None:
    url, service = mixing
    service.metrics.drafted(3, 1)  # whether any are, by themselves, is a matter of time here
    await client(url).completions.create(model="mixture", prompt="the quick", max_tokens=20)
    _, text = await fetch(f"{url}/metrics")
    [row], found = service.expert_table(), samples(text)
    counted = found["moesubnet_router_expert_seconds_count", row["hotkey"]]
    assert counted == row["answers"] > 0
    assert 0 < row["latency_s"] <= found["moesubnet_router_expert_seconds_sum", row["hotkey"]]
    _, live = await fetch(f"{url}/v1/moesubnet/live")
    kept, lost = (found["moesubnet_router_drafted_tokens_total", kind] for kind in ("kept", "lost"))
    told = json.loads(live)
    assert (told["kept_drafts"], told["drafted_tokens"]) == (kept, kept + lost)
    assert kept >= 3


async def test_conversations_are_counted_beside_all_texts(mixing: tuple[str, Service]) -> None:
    url, service = mixing
    hello = [{"role": "user", "content": "the quick"}]
    await client(url).completions.create(model="mixture", prompt="the quick", max_tokens=2)
    await client(url).chat.completions.create(model="mixture", messages=hello, max_tokens=2, n=2)
    counted = service.metrics.lengths()
    assert counted["chat", 0] == 2
    assert sum(texts for (part, _), texts in counted.items() if part in ("prompt", "more")) == 3


async def test_every_query_of_the_dashboard_is_answered_from_a_live_router(
    mixing: tuple[str, Service], tmp_path: Path
) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("DASHBOARD NOT TESTED: no prometheus here (Debian: apt-get install prometheus)")
    url, service = mixing
    address = url.removeprefix("http://")
    config = {
        "scrape_configs": [
            {
                "job_name": "router",
                "scrape_interval": "1s",
                "static_configs": [{"targets": [address]}],
            }
        ]
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    process = await asyncio.create_subprocess_exec(
        prometheus,
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        "--web.listen-address=127.0.0.1:0",
        "--log.format=json",
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        base = await _listening_at(process)
        async with aiohttp.ClientSession() as http, asyncio.timeout(60):

            async def ask(query: str) -> Any:
                """The result; None while it starts."""
                async with http.get(f"{base}/api/v1/query", params={"query": query}) as answer:
                    if answer.status == 503:
                        return None
                    told = await answer.json()
                    assert told["status"] == "success", (query, told)
                    return told["data"]["result"]

            async def use() -> None:
                """All that is counted goes on, money and failures included."""
                [row], metrics = service.expert_table(), service.metrics
                hotkey = str(row["hotkey"])
                await client(url).completions.create(
                    model="mixture", prompt="the quick", max_tokens=4
                )
                metrics.expert(hotkey, "late", 0.2)
                metrics.drafted(1, 1)
                metrics.used(Usage("mixture", 1, 1, 5, {hotkey: (2, 5)}), charged=True)

            for query in queries():
                while not _says(await ask(query)):
                    await use()
                    await asyncio.sleep(0.3)
    finally:
        process.kill()
        await process.wait()


def _says(result: list[dict[str, Any]] | None) -> bool:
    """Whether there is a number in all that a query gave."""
    values = [series["value"][1] for series in result or ()]
    return bool(values) and not {"NaN", "+Inf", "-Inf"}.intersection(values)


async def _listening_at(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    async for line in process.stderr:
        told = json.loads(line)
        if told.get("msg") == "Listening on":
            return f"http://{told['address']}"
    raise AssertionError("prometheus did not start")


def test_the_systemd_unit_is_one() -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("UNIT NOT TESTED: no systemd-analyze here")
    told = subprocess.run([analyze, "verify", str(UNIT)], capture_output=True, text=True)
    complaints = [
        line
        for line in told.stderr.splitlines()
        if UNIT.name in line and "is not executable" not in line
    ]
    assert not complaints
