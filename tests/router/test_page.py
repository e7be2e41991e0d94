"""The page at `/`, in a real browser."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from moesubnet.errors import EngineError
from moesubnet.mixture.sheet import Sheet
from moesubnet.router.epochs import Past, describe_epochs
from moesubnet.router.model import Forecast
from tests.router.conftest import ParrotModel, ParrotSession
from tests.sheets import synthetic_sheet

STATIC = Path(__file__).resolve().parents[2] / "router" / "static"

Serve = Callable[..., Any]
WATCH_WEIGHTS = """() => {
  const label = { attributeFilter: ["aria-label"], attributeOldValue: true };
  const note = (changes) => window.shown.push(...changes.map((change) => change.oldValue ?? ""));
  window.shown = [];
  new MutationObserver(note).observe(document.querySelector("#weights"), label);
}"""


class Weighed(ParrotSession):
    """Two experts take turns."""

    def forecast(self) -> Forecast:
        forecast = super().forecast()
        share = 0.9 if self.at % 5 < 3 else 0.2
        weights = {"5Prose": 0.95 * share, "5Code": 0.95 * (1 - share), self.model.beside: 0.05}
        return replace(forecast, weights=weights)


class WeighedParrot(ParrotModel):
    def open(self) -> Weighed:
        self.opened += 1
        return Weighed(self)

    def table(self) -> list[dict[str, object]]:
        return [
            {
                "uid": uid,
                "hotkey": hotkey,
                "name": name,
                "axon": "http://127.0.0.1:1",
                "serving": uid == 0,
                "answers": 12 * uid,
                "failures": uid,
                "late": 0,
                "latency_s": 0.042 * uid or None,
                "weight": 3.5,
                "incentive": 0.25,
                "price_rao_per_mtoken": 2_000_000 * uid,
            }
            for uid, (hotkey, name) in enumerate([("5Prose", "prose"), ("5Code", "<b>code</b>")])
        ]


@pytest.fixture
def parrot(tokenizer: Any) -> WeighedParrot:
    return WeighedParrot(tokenizer)


@pytest.fixture
async def browser() -> AsyncIterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip(
            "PAGE NOT TESTED IN A BROWSER: no chromium here (Debian: apt-get install chromium)"
        )
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        await launched.close()


@pytest.fixture
def sheets() -> list[Sheet]:
    return [synthetic_sheet(["5Code", "5Prose"], epoch=epoch, seed=epoch) for epoch in (3, 4, 5)]


async def says(page: Any, selector: str, words: str) -> None:
    from playwright.async_api import expect

    await expect(page.locator(selector)).to_have_text(re.compile(words), timeout=15_000)


async def opened(browser: Any, url: str, **options: Any) -> Any:
    page = await browser.new_page(**options)
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda line: line.type == "error" and page.faults.append(line.text))
    await page.goto(url)
    await says(page, "#state", "^serving$")
    return page


async def test_a_text_is_written_token_by_token_and_each_says_who_wrote_it(
    serve: Serve, browser: Any
) -> None:
    page = await opened(browser, await serve())
    await page.evaluate(WATCH_WEIGHTS)
    await page.fill("#prompt", "the quick")
    await page.fill("#max-tokens", "12")
    await page.fill("#temperature", "0")
    await page.keyboard.press("Control+Enter")
    await says(page, "#about", "^done")
    tokens = page.locator("#output .token")
    assert await tokens.count() == 12
    shown = [line for line in await page.evaluate("window.shown") if "prose" in line]
    assert len(shown) >= 11  # the weights of each token, as it comes
    assert len(set(shown)) == 2  # the two that take turns
    assert (await page.text_content("#output") or "").startswith("the quick brown")

    await tokens.nth(3).hover()
    assert await page.is_visible("#tip")
    assert re.search(r"prose0\.\d{3}", await page.text_content("#tip") or "")
    await page.mouse.move(0, 0)
    assert not await page.is_visible("#tip")
    await page.focus("#output")
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("ArrowRight")
    tip = await page.text_content("#tip")
    assert await page.is_visible("#tip")
    assert re.search(r"prose0\.\d{3}", tip or "")
    await page.keyboard.press("Escape")
    assert not await page.is_visible("#tip")
    legend = await page.text_content("#legend")
    assert "prose" in (legend or "")
    assert "<b>code</b>" in (legend or "")  # a name is text, whatever it looks like
    assert not page.faults


async def test_a_student_is_named_where_it_stands_in_the_baseline_s_place(
    serve: Serve, browser: Any, parrot: ParrotModel
) -> None:
    for name in ("baseline", "student"):
        parrot.beside = name
        page = await opened(browser, await serve())
        await page.fill("#prompt", "the quick")
        await page.fill("#max-tokens", "4")
        await page.keyboard.press("Control+Enter")
        await says(page, "#about", "^done")
        assert name in (await page.text_content("#legend") or "")


async def test_a_subnet_that_chats_opens_as_a_chat_that_goes_on(
    serve: Serve, browser: Any, parrot: ParrotModel
) -> None:
    joined = "{% for m in messages %}{% if m.role %}{{ m.content }}{% endif %}{% endfor %}"
    page = await opened(browser, await serve(says={"chat_template": joined}))
    sent: list[Any] = []
    page.on("request", lambda r: r.method == "POST" and sent.append(r.post_data_json["messages"]))
    await page.fill("#max-tokens", "4")
    await page.fill("#temperature", "0")
    for message in ("the quick", " fox"):
        await page.fill("#prompt", message)
        await page.keyboard.press("Control+Enter")
        await says(page, "#about", "^done")
    assert [[turn["role"] for turn in turns] for turns in sent] == [
        ["user"],
        ["user", "assistant", "user"],
    ]
    assert sent[1][0]["content"] == "the quick"
    shown = await page.text_content("#output")
    assert shown.startswith("the quick" + sent[1][1]["content"])
    assert sent[1][1]["content"].startswith(" brown")
    assert await page.input_value("#prompt") == ""
    assert await page.locator("#output .turn").count() == 2

    parrot.fail_after = 0
    await page.fill("#prompt", "lost?")
    await page.keyboard.press("Control+Enter")
    await says(page, "#about", "expert")
    assert await page.input_value("#prompt") == "lost?"  # it was not said
    assert await page.locator("#output .turn").count() == 2

    await page.click("#again")
    assert await page.locator("#output > *").count() == 0
    await page.select_option("#mode", "completions")
    assert (await page.input_value("#prompt")).startswith("def main")
    assert not [fault for fault in page.faults if "503" not in fault]


async def test_the_page_tells_what_experts_take_and_which_drafts_are_kept(
    serve: Serve, browser: Any
) -> None:
    page = await opened(browser, await serve())
    await says(page, "#experts", "latency")
    await says(page, "#experts tr:nth-child(2)", "–.*0, 0")
    await says(page, "#experts tr:nth-child(3)", "42 ms")
    await says(page, "#live", "drafts kept–")  # nothing is drafted here
    assert not page.faults


async def test_a_character_of_several_tokens_is_shown_whole(serve: Serve, browser: Any) -> None:
    page = await opened(browser, await serve())
    await page.fill("#prompt", "the quick brown fox jumps over the lazy dog;")
    await page.fill("#max-tokens", "12")
    await page.fill("#temperature", "0")
    await page.click("#go")
    await says(page, "#about", "^done")
    shown = await page.text_content("#output") or ""
    assert "naïve café 世" in shown
    assert "\ufffd" not in shown


async def test_escape_stops_a_stream(serve: Serve, browser: Any, parrot: ParrotModel) -> None:
    parrot.pause_s = 0.5  # for a browser on a busy machine
    page = await opened(browser, await serve())
    await page.fill("#max-tokens", "40")
    await page.fill("#prompt", "the quick")
    await page.click("#go")
    await page.locator("#output .token").nth(2).wait_for()
    await page.keyboard.press("Escape")
    await says(page, "#about", "^stopped")
    assert await page.locator("#output .token").count() < 30


async def test_what_the_router_refuses_is_said_on_the_page(serve: Serve, browser: Any) -> None:
    page = await opened(browser, await serve())
    await page.fill("#max-tokens", "4000")
    await page.click("#go")
    await says(page, "#about", "maximum context")


async def test_a_router_with_keys_asks_for_one(serve: Serve, browser: Any) -> None:
    url = await serve(api_keys=["secret"])
    page = await browser.new_page()
    await page.goto(url)
    await page.locator("#key-field").wait_for(state="visible")
    await page.fill("#key", "secret")
    await page.keyboard.press("Tab")
    await says(page, "#state", "^serving$")
    assert await page.locator("#experts tr").count() == 3


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
async def test_the_page_fits_a_telephone_and_a_desk_in_both_lights(
    serve: Serve, browser: Any, sheets: list[Sheet], width: int, scheme: str
) -> None:
    page = await opened(
        browser,
        await serve(sheets=sheets),
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
    )
    await page.locator("#history svg").wait_for()
    assert await page.locator("#votes tr").count() > 1
    await page.evaluate("document.querySelector('#model').add(new Option('5'.repeat(60)))")
    overflow = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0
    assert not page.faults


def test_nothing_on_the_page_comes_from_elsewhere() -> None:
    for file in STATIC.iterdir():
        assert not re.search(r"(?i)https?:|//[a-z]+\.|url\((?!data)", file.read_text()), file


async def test_the_page_is_for_everybody_and_its_data_for_keys(serve: Serve) -> None:
    url = await serve(api_keys=["secret"])
    async with aiohttp.ClientSession() as http:
        for path, status in [
            ("/", 200),
            ("/page/page.js", 200),
            ("/v1/moesubnet/experts", 401),
            ("/v1/moesubnet/epochs", 401),
            ("/v1/moesubnet/live", 401),
        ]:
            async with http.get(url + path) as answer:
                assert answer.status == status, path
                if status == 200:
                    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_history_is_recomputed_from_the_sheets(sheets: list[Sheet]) -> None:
    told = describe_epochs(sheets, {})
    assert [epoch["epoch"] for epoch in told["epochs"]] == [3, 4, 5]
    assert [epoch["student"] for epoch in told["epochs"]] == [None] * 3
    sheet = sheets[-1]
    labels = sheet.log_q[:, -1] / 1e6
    assert told["epochs"][-1]["baseline"] == pytest.approx(float(np.exp(-labels.mean())))
    assert [vote["epoch"] for vote in told["sheets"]] == [5, 4]
    shares = [row["vote"] for row in told["sheets"][0]["experts"]]
    assert sum(shares) == pytest.approx(1.0) or not any(sheet.row_u16)
    assert shares == sorted(shares, reverse=True)


class Knowing(ParrotSession):
    """Knows the text of every walk, and says so when it is asked position by position."""

    async def echo(self, prompt_ids: np.ndarray) -> AsyncIterator[Forecast]:
        self.model.asked.append(len(prompt_ids))
        for token_id in [*prompt_ids.tolist(), 0]:
            self.model.ids = [token_id]
            yield ParrotSession.forecast(self)


class Student(ParrotModel):
    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self.asked: list[int] = []

    def open(self) -> Knowing:
        self.opened += 1
        return Knowing(self)


def over(spec: Any, sheets: list[Sheet]) -> list[Sheet]:
    """The same sheets, of this spec and with its tokens alone."""
    digest, size = bytes.fromhex(spec.sha256), spec.spec.vocab_size
    return [
        replace(s, spec_sha256=digest, walks=tuple(ids % size for ids in s.walks)) for s in sheets
    ]


async def test_the_student_is_asked_for_what_validators_asked_experts(
    spec: Any, tokenizer: Any, sheets: list[Sheet]
) -> None:
    ours = over(spec, sheets)
    past, student = Past(lambda: ours, bytes.fromhex(spec.sha256)), Student(tokenizer)
    assert [epoch["student"] for epoch in (await past.told())["epochs"]] == [None] * 3
    await past.ask(student)  # the newest first: its votes are what is looked at
    told = (await past.told())["epochs"]
    assert [epoch["student"] for epoch in told] == [None, None, pytest.approx(1 / 0.99)]
    for _ in range(5):
        await past.ask(student)
    told = (await past.told())["epochs"]
    assert [epoch["student"] for epoch in told] == [pytest.approx(1 / 0.99)] * 3
    assert student.asked == [len(ids) for sheet in ours for ids in sheet.walks]  # each once
    assert student.opened == student.closed


async def test_the_student_reads_no_text_of_another_spec_and_no_endless_one(
    spec: Any, tokenizer: Any, sheets: list[Sheet], monkeypatch: pytest.MonkeyPatch
) -> None:
    student = Student(tokenizer)
    await Past(lambda: sheets, bytes.fromhex(spec.sha256)).ask(student)
    ours = over(spec, sheets)
    for most in ("MOST_ASKED_TOKENS", "MOST_WALK_TOKENS"):
        with monkeypatch.context() as patched:
            patched.setattr(f"moesubnet.router.epochs.{most}", 10)
            await Past(lambda: ours, bytes.fromhex(spec.sha256)).ask(student)
    assert not student.asked


async def test_what_the_student_said_of_sheets_that_are_gone_is_forgotten(
    spec: Any, tokenizer: Any, sheets: list[Sheet]
) -> None:
    ours = over(spec, sheets)
    past, student = Past(lambda: ours, bytes.fromhex(spec.sha256)), Student(tokenizer)
    for _ in sheets:
        await past.ask(student)
    del ours[0]
    await past.ask(student)
    assert past._student.keys() == {sheet.sha256 for sheet in ours}


async def test_a_student_that_fails_at_a_sheet_leaves_it_alone(
    spec: Any, tokenizer: Any, sheets: list[Sheet]
) -> None:
    ours = over(spec, sheets[:1])
    past, student = Past(lambda: ours, bytes.fromhex(spec.sha256)), Student(tokenizer)
    student.fail_after, student.failure = 0, EngineError("gone")
    with pytest.raises(EngineError):
        await past.ask(student)
    await past.ask(student)
    assert len(student.asked) == 1
    assert student.opened == student.closed


async def test_history_has_the_student_beside_the_others(
    serve: Serve, browser: Any, spec: Any, tokenizer: Any, sheets: list[Sheet]
) -> None:
    ours = over(spec, sheets)
    url = await serve(sheets=ours, student=Student(tokenizer))
    page = await opened(browser, url)
    await says(page, "#history", r"mixture \d.*, student 1\.0, baseline \d")
    marks = page.locator("#history svg text")
    boxes = [await marks.nth(k).bounding_box() for k in range(await marks.count())]
    tops = sorted(box["y"] for box in boxes[2:])  # after the axis's
    assert len(tops) >= 3
    assert all(low - high >= 12 for high, low in itertools.pairwise(tops))
    assert not page.faults
