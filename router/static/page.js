"use strict";
// The router's page: everything comes from its own /v1 endpoints, nothing from elsewhere.

const $ = (id) => document.getElementById(id);
const BASELINE = "baseline";
const NO_EXPERTS = [BASELINE, "student"]; // which stands in its place
const REFRESH_MS = 2000;
const PALETTE = 8;

let experts = new Map(); // hotkey → row of /v1/moesubnet/experts
let tones = new Map(); // hotkey → CSS colour; given once, so an expert keeps its colour
let writing = null; // AbortController of the request under way
let before = null; // the last figures, for rates
let turns = null; // of the chat so far, or null while texts are continued
let chosen = false; // whether to chat was settled, by the subnet or by the reader
let decoder = new TextDecoder(); // for characters that several tokens make together

// -- talking to the router -------------------------------------------------------------------

function headers() {
  const key = $("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function ask(path) {
  const answer = await fetch(path, { headers: headers() });
  if (answer.status === 401) $("key-field").hidden = false;
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error?.message ?? `${answer.status}`);
  return body;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") return;
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}

// -- names and colours -----------------------------------------------------------------------

function nameOf(hotkey) {
  if (NO_EXPERTS.includes(hotkey)) return hotkey;
  return experts.get(hotkey)?.name ?? `${hotkey.slice(0, 8)}…`;
}

function toneOf(hotkey) {
  if (NO_EXPERTS.includes(hotkey)) return "var(--none)";
  if (!tones.has(hotkey)) tones.set(hotkey, `var(--e${tones.size % PALETTE})`);
  return tones.get(hotkey);
}

const ranked = (weights) => Object.entries(weights).sort((a, b) => b[1] - a[1]);

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function toned(made, hotkey, share = 1) {
  made.style.setProperty("--tone", toneOf(hotkey));
  made.style.setProperty("--share", share);
  return made;
}

// -- writing ---------------------------------------------------------------------------------

async function write() {
  if (writing) return;
  const prompt = $("prompt").value, chat = turns !== null;
  if (chat && !prompt.trim()) return;
  const asked = { role: "user", content: prompt };
  const body = {
    model: $("model").value,
    max_tokens: Number($("max-tokens").value),
    temperature: Number($("temperature").value),
    stream: true,
    moesubnet: { provenance: true },
    ...(chat ? { messages: [...turns, asked] } : { prompt }),
  };
  writing = new AbortController();
  decoder = new TextDecoder();
  $("go").disabled = true;
  $("stop").disabled = false;
  if (!chat || !turns.length) $("output").replaceChildren();
  const given = element("span", { className: chat ? "given turn" : "given", textContent: prompt });
  $("output").append(given);
  if (chat) $("prompt").value = "";
  $("about").textContent = "reading the prompt …";
  const began = performance.now();
  let tokens = 0, first = 0, answer = "";
  try {
    const response = await fetch(`v1/${chat ? "chat/" : ""}completions`, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify(body),
      signal: writing.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      for (const token of event.moesubnet?.tokens ?? []) {
        first ||= performance.now();
        tokens += 1;
        showToken(token);
      }
      answer += event.choices?.[0]?.delta?.content ?? "";
    }
    told(tokens, began, first, "done");
  } catch (error) {
    told(tokens, began, first, error.name === "AbortError" ? "stopped" : error.message);
  } finally {
    writing = null;
    $("go").disabled = false;
    $("stop").disabled = true;
    if (chat && tokens) turns.push(asked, { role: "assistant", content: answer });
    else if (chat) {
      given.remove();
      $("prompt").value ||= prompt;
    }
    $("again").hidden = !turns?.length;
  }
}

// A chat begins, or texts are continued, with an empty page.
function begins() {
  const chat = $("mode").value === "chat";
  writing?.abort();
  if (chat !== (turns !== null)) $("prompt").value = chat ? "" : "def main(argv):\n    ";
  turns = chat ? [] : null;
  $("prompt-label").textContent = chat ? "Message" : "Prompt";
  $("go").textContent = chat ? "Send" : "Write";
  $("again").hidden = true;
  for (const id of ["output", "legend", "weights", "about"]) $(id).replaceChildren();
}

function told(tokens, began, first, end) {
  const seconds = (performance.now() - first) / 1000;
  const speed = tokens > 1 ? `, ${((tokens - 1) / seconds).toFixed(1)} tokens a second` : "";
  const start = first ? `, the first after ${((first - began) / 1000).toFixed(2)} s` : "";
  $("about").textContent = `${end}: ${tokens} tokens${start}${speed}`;
}

function showToken(token) {
  const order = ranked(token.experts);
  const [writer, share] = order[0] ?? [BASELINE, 0];
  const text = token.bytes ? decoder.decode(new Uint8Array(token.bytes), { stream: true }) : token.token;
  if (text) {
    const made = toned(element("span", { className: "token", textContent: text, tabIndex: -1 }), writer, share);
    made.weights = token.experts;
    $("output").append(made);
  }
  $("weights").replaceChildren(...order.map(([hotkey, weight]) => toned(element("span"), hotkey, weight)));
  $("weights").setAttribute("aria-label", "Weights of the latest token: " + words(order));
  showLegend(order);
}

const words = (order) => order.map(([hotkey, weight]) => `${nameOf(hotkey)} ${weight.toFixed(2)}`).join(", ");

function showLegend(order) {
  const shown = new Set([...$("legend").children].map((child) => child.hotkey));
  for (const [hotkey] of order) {
    if (shown.has(hotkey)) continue;
    const made = toned(element("span", { className: "swatch", textContent: nameOf(hotkey) }), hotkey);
    made.hotkey = hotkey;
    $("legend").append(made);
  }
}

// -- the weights of a token, by mouse and by keyboard ----------------------------------------

function showTip(token) {
  const tip = $("tip");
  const rows = ranked(token.weights ?? {}).map(([hotkey, weight]) =>
    element("div", {}, toned(element("span", { className: "swatch", textContent: nameOf(hotkey) }), hotkey),
      element("span", { textContent: weight.toFixed(3) })));
  tip.replaceChildren(element("b", { textContent: JSON.stringify(token.textContent) }), ...rows);
  tip.hidden = false;
  const box = token.getBoundingClientRect(), wide = tip.offsetWidth;
  const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - wide - 8));
  tip.style.left = `${left + scrollX}px`;
  tip.style.top = `${box.bottom + scrollY + 6}px`;
}

function walk(event) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const tokens = [...$("output").querySelectorAll(".token")];
  const at = tokens.indexOf(document.activeElement);
  const next = tokens[at < 0 ? 0 : Math.min(tokens.length - 1, Math.max(0, at + step))];
  if (next) {
    next.focus();
    event.preventDefault();
  }
}

// -- what is going on ------------------------------------------------------------------------

function row(cells, tag = "td") {
  return element("tr", {}, ...cells.map((cell) => {
    const made = element(tag, tag === "th" ? { scope: "col" } : {});
    made.append(cell);
    return made;
  }));
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const tau = (rao) => `${(rao / 1e9).toLocaleString("en", { maximumFractionDigits: 6 })} τ`;

function showExperts(rows) {
  experts = new Map(rows.map((expert) => [expert.hotkey, expert]));
  const gained = rows.map((expert) => expert.weight - (before?.weights.get(expert.hotkey) ?? expert.weight));
  const sum = gained.reduce((a, b) => a + b, 0);
  const total = rows.reduce((all, expert) => all + expert.weight, 0);
  $("experts").replaceChildren(
    row(["expert", "state", "share now", "share in all", "answers", "latency", "late, failed in a row", "incentive", "price per 1,000,000"], "th"),
    ...rows.map((expert, k) => row([
      toned(element("span", { className: "swatch", textContent: expert.name, title: expert.hotkey }), expert.hotkey),
      expert.serving ? "serving" : "resting",
      sum > 0 ? percent(gained[k] / sum) : "–",
      total > 0 ? percent(expert.weight / total) : "–",
      expert.answers.toLocaleString("en"),
      expert.latency_s === null ? "–" : `${Math.round(1000 * expert.latency_s)} ms`,
      `${expert.late}, ${expert.failures}`,
      percent(expert.incentive),
      expert.price_rao_per_mtoken ? tau(expert.price_rao_per_mtoken) : "free",
    ])));
}

function figure(name, value) {
  return [element("dt", { textContent: name }), element("dd", { textContent: value })];
}

function showLive(live, rows) {
  const now = { at: performance.now(), tokens: live.completion_tokens, requests: live.requests, drafted: live.drafted_tokens, kept: live.kept_drafts, weights: new Map(rows.map((e) => [e.hotkey, e.weight])) };
  const seconds = before ? (now.at - before.at) / 1000 : 0;
  const rate = (what) => (before ? ((now[what] - before[what]) / seconds).toFixed(1) : "–");
  // Of the drafts since the last look; of all while nothing is drafted.
  const since = before && now.drafted > before.drafted ? before : { drafted: 0, kept: 0 };
  const accepted = now.drafted ? percent((now.kept - since.kept) / (now.drafted - since.drafted)) : "–";
  const figures = [["tokens a second", rate("tokens")], ["drafts kept", accepted], ["requests a second", rate("requests")], ["writing now", live.running],
    ["experts serving", `${live.experts_serving} of ${live.experts_known}`], ["tokens written", live.completion_tokens.toLocaleString("en")]];
  $("live").replaceChildren(...figures.map(([name, value]) => element("div", {}, ...figure(name, value))));
  $("state").textContent = live.experts_serving ? "serving" : "no expert answers right now";
  before = now;
}

async function refresh() {
  try {
    const [{ experts: rows }, live] = await Promise.all([ask("v1/moesubnet/experts"), ask("v1/moesubnet/live")]);
    showExperts(rows);
    showLive(live, rows);
  } catch (error) {
    $("state").textContent = error.message;
  }
}

// -- epochs ----------------------------------------------------------------------------------

function line(points, x, y, tone) {
  const at = points.map(([epoch, value]) => `${x(epoch).toFixed(1)},${y(value).toFixed(1)}`);
  const [epoch, value] = points.at(-1);
  return `<g style="--tone:${tone}"><polyline points="${at.join(" ")}"/><circle cx="${x(epoch)}" cy="${y(value)}" r="3.5"/></g>`;
}

function labels(ends, y) {
  let free = 0; // each goes as high as its line ends, or below the one before it
  return ends.sort((a, b) => y(a.value) - y(b.value)).map(({ name, value }) => {
    free = Math.max(free, y(value) + 4) + 20;
    return `<text x="342" y="${free - 20}">${name} ${value.toFixed(1)}</text>`;
  }).join("");
}

function showHistory(epochs) {
  const shown = epochs.filter((epoch) => epoch.mixture > 0);
  if (!shown.length) {
    $("history").textContent = "No score sheet has been revealed yet: the first comes in the third epoch.";
    return;
  }
  const named = [["mixture", "mixture", "--e0"], ["best_expert", "best expert", "--e1"], ["student", "student", "--e2"], ["baseline", "baseline", "--none"]];
  const lines = named.map(([key, name, tone]) => ({ name, tone, points: shown.map((epoch) => [epoch.epoch, epoch[key]]).filter(([, value]) => value > 0) }))
    .filter(({ points }) => points.length);
  const values = lines.flatMap(({ points }) => points.map(([, value]) => value));
  const [low, high] = [Math.log(Math.min(...values)), Math.log(Math.max(...values))];
  const [from, to] = [shown[0].epoch, shown.at(-1).epoch];
  const x = (epoch) => 44 + (to > from ? ((epoch - from) / (to - from)) * 290 : 0);
  const y = (value) => 20 + (high > low ? ((high - Math.log(value)) / (high - low)) * 130 : 65);
  const ends = lines.map(({ name, points }) => ({ name, value: points.at(-1)[1] }));
  const summary = `Epochs ${from} to ${to}: ${ends.map(({ name, value }) => `${name} ${value.toFixed(1)}`).join(", ")}. Lower is better.`;
  $("history").innerHTML = `<svg viewBox="0 0 520 200" role="img" aria-label="${summary}">
    <line class="axis" x1="40" y1="178" x2="340" y2="178"/><text x="40" y="195">epoch ${from}</text><text x="310" y="195">${to}</text>
    ${lines.map(({ points, tone }) => line(points, x, y, `var(${tone})`)).join("")}${labels(ends, y)}</svg><p class="hint">${summary}</p>`;
}

let sheets = [];

function showVote() {
  const sheet = sheets[Number($("sheet").value)];
  if (!sheet) return;
  $("vote-words").textContent =
    `Validator ${nameOf(sheet.validator)} asked ${sheet.items} times for the next token of text that nobody had seen. ` +
    "“alone” is how well an expert guessed it, in nats a token; its score is what it adds to the mixture of the others over the baseline, smoothed over epochs; the vote is its share of all scores.";
  $("votes").replaceChildren(
    row(["expert", "alone", "answered", "score", "vote"], "th"),
    ...sheet.experts.map((expert) => row([
      toned(element("span", { className: "swatch", textContent: nameOf(expert.hotkey), title: expert.hotkey }), expert.hotkey),
      expert.alone_nats === null ? "–" : expert.alone_nats.toFixed(3),
      percent(expert.reliability), expert.score_nats === null ? "–" : expert.score_nats.toFixed(4), percent(expert.vote),
    ])));
}

async function refreshEpochs() {
  try {
    const found = await ask("v1/moesubnet/epochs");
    showHistory(found.epochs);
    if (JSON.stringify(found.sheets) === JSON.stringify(sheets)) return;
    sheets = found.sheets;
    $("sheet").replaceChildren(...sheets.map((sheet, k) =>
      element("option", { value: k, textContent: `epoch ${sheet.epoch}, ${nameOf(sheet.validator)}` })));
    if (!sheets.length) $("vote-words").textContent = "No score sheet has been revealed yet.";
    showVote();
  } catch { /* `refresh` says what is wrong */ }
}

// Two experts may have one name.
const shownAs = (model) => {
  const hotkey = model.startsWith("expert:") ? model.slice("expert:".length) : null;
  return hotkey && nameOf(hotkey) !== hotkey ? `expert: ${nameOf(hotkey)} (${hotkey.slice(0, 6)}…)` : model;
};

async function begin() {
  try {
    const models = await ask("v1/models");
    if (!chosen) $("mode").value = models.data.some((model) => model.chats) ? "chat" : "completions";
    if (!chosen) begins();
    chosen = true;
    $("model").replaceChildren(...models.data.map((model) => element("option", { value: model.id, textContent: model.id })));
  } catch (error) {
    $("state").textContent = error.message;
  }
  await refresh();
  for (const option of $("model").options) option.textContent = shownAs(option.value);
  await refreshEpochs();
}

$("write").addEventListener("submit", (event) => { event.preventDefault(); write(); });
$("mode").addEventListener("change", () => { chosen = true; begins(); });
$("again").addEventListener("click", () => { begins(); $("prompt").focus(); });
$("stop").addEventListener("click", () => writing?.abort());
$("sheet").addEventListener("change", showVote);
$("key").addEventListener("change", () => { sessionStorage.setItem("key", $("key").value); begin(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { writing?.abort(); $("tip").hidden = true; }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) write();
});
$("output").addEventListener("keydown", walk);
for (const [shows, hides] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
  $("output").addEventListener(shows, (event) => { if (event.target.weights) showTip(event.target); });
  $("output").addEventListener(hides, () => { $("tip").hidden = true; });
}
$("key").value = sessionStorage.getItem("key") ?? "";
begin();
setInterval(refresh, REFRESH_MS);
setInterval(refreshEpochs, 5 * REFRESH_MS);
