import { drawCharts } from "./charts.js";
import { look, offer } from "./names.js";
import { $, badge, bdi, bytes, duration, element, facts, growth, number, percent, reachable, table, text } from "./parts.js";
import { keepToken, request, signedIn } from "./request.js";

// The dashboard shows the figures of api/admin/memory-stats: live from its stream, or once a minute without a stream.
const REFRESH_MS = 60_000;
const RETRY_MS = 3_000; // After a failure. It doubles with each further failure, up to half a minute.
const SILENCE_MS = 35_000; // The stream sends something every 15 s. If it sends nothing for this time, it has failed.
const SLOW_MS = 10_000; // Charts and tables are fetched at most once in this time.

let last = null;
let slowDue = 0;

// ---- the display ----

function only(part) {
  for (const id of ["loading", "sign-in", "content"]) $(id).hidden = id !== part;
  $("sign-out").hidden = !signedIn() || part === "sign-in";
}

// Screen readers announce when figures become live or old. They do not announce the time beside it.
function live(state) {
  text("live", state);
  text("at", last ? new Date(last.timestamp).toLocaleTimeString() : "");
  $("content").classList.toggle("old", state === "Not updated");
}

function show(stats) {
  last = stats;
  const raw = stats.raw;
  const up = stats.cache.redis.connected;
  const figures = up ? raw.server.figures : null;
  const cache = figures?.cache ?? null;
  // The status follows the heap. If the heap is not known, no status is shown.
  const known = raw.heapPercent != null;
  badge($("status"), known ? stats.status.toUpperCase() : "UNKNOWN", known ? stats.status : "");
  text("instance", raw.instance);
  document.title = `${stats.status === "healthy" ? "" : `${stats.status.toUpperCase()}: `}${raw.instance} – tagcache`;
  text("heap-used", stats.memory.heapUsed);
  text("heap-total", stats.memory.heapTotal);
  text("heap-percent", stats.memory.heapPercent);
  $("heap-meter").hidden = !known;
  if (known) {
    $("heap-meter").value = raw.heapPercent;
    $("heap-meter").textContent = stats.memory.heapPercent;
    $("heap-meter").className = stats.status;
  }
  // Without a local tier, these are the server's entries.
  text("entries", number(raw.local ? stats.cache.local.totalEntries : cache?.entries ?? (up ? 0 : null)));
  const watched = raw.server.state !== "none";
  badge($("redis"), !watched ? "Not watched" : up ? "Connected" : "Disconnected", !watched ? "" : up ? "connected" : "disconnected");
  const withoutCache = "No figures of the cache: the server has not loaded the module, or refuses CACHE.STATS.";
  text("redis-error", raw.server.state === "unreachable" ? raw.server.error : up && !cache ? withoutCache : "");

  text("hit-rate", percent(raw.rates.hitRate) ?? "no reads");
  text("growth", raw.growth ? growth(raw.growth.mbPerMinute) : "not yet known");
  text("rss", stats.memory.rss);
  text("pause", raw.longestPauseMs == null ? null : `${number(raw.longestPauseMs, 2)} ms`);
  text("keys", number(stats.cache.redis.keyCount));
  text("server-memory", bytes(figures?.usedMemory));
  text("invalidations", number(raw.rates.invalidationsPerMinute, 1));
  text("backlog", number(cache?.reclaimBacklog));
  showAlerts(raw);
  $("local-section").hidden = !raw.local;
  if (raw.local) {
    table("local", stats.cache.local.entries, "The local tier is empty.", [
      ["Key", (e) => e.key, "key-name"],
      ["Hits", (e) => number(e.hits) ?? "–", "number"],
      ["Memory", (e) => bytes(e.bytes) ?? "–", "number"],
      ["Fresh for", (e) => duration(e.ttlMs == null ? null : e.ttlMs / 1000) ?? "–", "number"],
    ]);
  }
  showClient(raw.client);
  $("failure").hidden = true;
  const first = $("content").hidden;
  only("content");
  if (first) look();
  if (Date.now() >= slowDue) refreshSlow();
}

function showAlerts(raw) {
  const rules = raw.alerts.map((rule) => ({ ...rule, kind: rule.state === "quiet" ? "quiet-rule" : rule.state }));
  if (raw.leakSuspected) {
    const rate = raw.growth ? number(raw.growth.mbPerMinute, 2) : "?";
    rules.unshift({ name: "Memory leak suspected", severity: "warning", condition: `steady growth of ${rate} MB/min`, state: "firing", kind: "firing", seconds: null });
  }
  const order = ["firing", "pending", "quiet"];
  rules.sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state));
  table("alerts", rules, "No rules are loaded.", [
    ["State", (r) => r.state, (r) => `badge ${r.kind}`],
    ["Rule", (r) => r.name],
    ["Severity", (r) => r.severity],
    ["Condition", (r) => r.condition, "key-name"],
    ["For", (r) => duration(r.seconds) ?? "–", "number"],
  ]);
}

// The application's own cache: its counters, and the state of its servers.
function showClient(client) {
  $("client-section").hidden = !client;
  if (!client) return;
  const names = {
    loads: "Loads", joined: "Waited for a load of this process", leaseWaits: "Waited for another process's load", staleServed: "Stale values served",
    loadFailures: "Loads failed", failSafe: "Stale values instead of errors", overtaken: "Not kept: invalidated meanwhile", serverErrors: "Calls without the server",
  };
  table("counts", Object.keys(names), "", [["Since the start", (n) => names[n]], ["Count", (n) => number(client.counts[n]) ?? "–", "number"]]);
  const words = (state) => state.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
  table("servers", client.servers, "No server is known yet.", [
    ["Server", (n) => n.address, "key-name"],
    ["State", (n) => words(n.state), (n) => `badge ${n.state === "up" ? "healthy" : n.connected ? "warning" : "critical"}`],
    ["For", (n) => duration(n.seconds), "number"],
    ["Invalidations to send again", (n) => number(n.missedInvalidations), "number"],
    ["Last error", (n) => n.lastError ?? "none", "key-name"],
  ]);
}

function fail(error) {
  const titles = { 403: "Not allowed", 429: "Too many requests" };
  text("failure-title", titles[error.status] ?? "Failed to fetch memory stats");
  const since = last ? ` Last figures: ${new Date(last.timestamp).toLocaleTimeString()}.` : "";
  text("failure-detail", `${(error.message || "The endpoint does not answer").replace(/\.?$/, ".")}${since}`);
  if (error.retryAfter) $("failure-detail").append(` Next try in ${duration(error.retryAfter)}.`);
  $("failure").hidden = false;
  $("loading").hidden = true;
  $("sign-out").hidden = !signedIn();
  live("Not updated");
}

function askForToken(error) {
  run += 1;
  stream?.abort();
  keepToken(null);
  last = null;
  document.title = "tagcache";
  $("failure").hidden = true;
  only("sign-in");
  live("Not signed in");
  text("sign-in-error", error);
  $("token").value = "";
  $("token").focus();
}

// ---- the source of the figures ----

let run = 0; // A sign-out or a new token ends the earlier loop.
let stream = null;
let lastData = 0;
let wake = () => {};

const sleep = (ms) => new Promise((done) => { const timer = setTimeout(done, ms); wake = () => { clearTimeout(timer); done(); }; });

async function load(state) {
  show(await (await request("memory-stats")).json());
  live(state);
}

// Fetches the figures once, then reads the stream until it ends, and begins again. Failures are shown and retried.
async function start() {
  const mine = ++run;
  slowDue = 0;
  let wait = RETRY_MS;
  while (mine === run) {
    const began = Date.now();
    let pause = 0;
    let looked = false;
    try {
      await load("Updated");
      looked = true;
      await follow();
    } catch (error) {
      if (mine !== run) return;
      if (looked && error.status === 503) pause = REFRESH_MS; // There is no stream, so the figures are fetched once a minute.
      else if (error.name !== "AbortError") fail(error);
      pause = Math.max(pause, error.retryAfter * 1000 || 0);
    }
    if (mine !== run) return;
    if (Date.now() - began > REFRESH_MS) wait = RETRY_MS;
    await sleep(Math.max(pause, wait));
    wait = Math.min(wait * 2, REFRESH_MS / 2);
  }
}

// EventSource cannot send a token, so this reads the stream by fetch.
async function follow() {
  const mine = (stream = new AbortController());
  lastData = Date.now();
  const response = await request("memory-stats/stream", { signal: mine.signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done || mine.signal.aborted) return;
    lastData = Date.now();
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((l) => l.startsWith("data:")).map((l) => l.slice(5)).join("\n");
      if (data) {
        show(JSON.parse(data));
        live("Live");
      }
    }
  }
}

// If a laptop wakes up, a tab is shown again or the network returns, this fetches at once and not after the pause.
function lookNow() {
  if (document.hidden || !$("sign-in").hidden) return;
  if (Date.now() - lastData > SILENCE_MS / 2) stream?.abort();
  wake();
  if (last) refreshSlow();
}

async function refreshSlow() {
  if (document.hidden) return;
  slowDue = Date.now() + SLOW_MS;
  await Promise.all([overview(), drawCharts()]);
}

let instancesShown = "";

function showInstances(instances) {
  const state = JSON.stringify(instances);
  if (state === instancesShown) return;
  instancesShown = state;
  if (!instances?.length) {
    const why = instances ? "No instance has published its figures." : "The server does not report this.";
    return $("instances").replaceChildren(element("p", why, "empty"));
  }
  const cards = element("div", null, "cards");
  cards.append(...instances.map((instance) => {
    const card = element("section", element("h3", bdi(instance.instance)));
    card.ariaLabel = instance.instance;
    card.firstChild.append(element("span", instance.status.toUpperCase(), `badge ${instance.status}`));
    const rows = element("dl", null, "rows");
    facts(rows, [
      ["Heap", percent(instance.heapPercent)],
      ["Resident", bytes(instance.rss)],
      ["Hit rate", percent(instance.hitRate) ?? "no reads"],
      ["Local entries", number(instance.localEntries) ?? "no local tier"],
      ["Leak", instance.leakSuspected ? "suspected" : "no"],
      ["Up", duration(instance.uptimeSeconds)],
    ]);
    card.append(rows);
    const recent = instance.recent.filter((n) => n != null);
    if (recent.length > 1) card.append(line(instance.recent, recent));
    return card;
  }));
  $("instances").replaceChildren(cards);
}

// The heap of the last hour: one point per minute, the newest to the right.
function line(recent, known) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 59 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.role = "img";
  svg.ariaLabel = `Heap in the last ${recent.length} min: from ${percent(Math.min(...known))} to ${percent(Math.max(...known))}`;
  const points = recent.map((n, i) => (n == null ? "" : `${60 - recent.length + i},${100 - n}`));
  const drawn = svg.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "polyline"));
  drawn.setAttribute("points", points.filter(Boolean).join(" "));
  return svg;
}

async function overview() {
  try {
    const { topKeys, tags, instances } = await (await request("overview")).json();
    table("top", topKeys, "Nothing was read yet.", [
      ["Key", (k) => k.key, "key-name", (k) => ["key", k.query]],
      ["Hits", (k) => number(k.hits), "number"],
    ]);
    table("tags", tags, "No entry carries a tag.", [
      ["Tag", (t) => t.tag, "key-name", (t) => ["tag", t.query]],
      ["Entries", (t) => number(t.entries), "number"],
      ["Memory", (t) => bytes(t.bytes), "number"],
    ]);
    showInstances(instances);
    offer([...(tags ?? []).map((t) => t.tag), ...(topKeys ?? []).map((k) => k.key)]);
  } catch { /* the statistics tell of failures */ }
}

// ---- actions ----

async function change(path, body, done) {
  try {
    const options = { method: "POST" };
    if (body) Object.assign(options, { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
    text("control-result", done(await (await request(path, options)).json()));
    slowDue = 0;
  } catch (error) {
    text("control-result", `Failed: ${error.message}`);
  }
}

const entries = (n) => (n == null ? "No server is watched." : `${number(n)} ${n === 1 ? "entry" : "entries"} dropped.`);

$("invalidate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  change("cache/invalidate", { tags: [$("tag").value], soft: $("soft").checked }, (answer) => entries(answer.invalidated));
});
$("clear").addEventListener("click", () => {
  $("confirm").returnValue = "";
  $("confirm").showModal();
});
$("confirm").addEventListener("close", () => {
  if ($("confirm").returnValue === "yes") change("cache/clear", null, (answer) => entries(answer.cleared.redis ?? answer.cleared.local));
});
$("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  if (!/^[ -~]+$/.test(token)) return askForToken("A token consists of letters, digits and signs of ASCII.");
  keepToken(token);
  text("sign-in-error", "");
  only("loading");
  live("Loading…");
  start();
});
$("sign-out").addEventListener("click", () => {
  // The figures are removed together with the token, also from the page's memory.
  keepToken(null);
  location.reload();
});
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => {
    document.querySelectorAll(".scroll, .key-name bdi").forEach(reachable);
    if (last) refreshSlow();
  }, 250);
});
addEventListener("unauthorized", () => {
  // Of several requests, the first one gives the reason.
  if ($("sign-in").hidden) askForToken(signedIn() ? "This token is not accepted." : "");
});
addEventListener("online", lookNow);
document.addEventListener("visibilitychange", lookNow);
setInterval(() => { if (Date.now() - lastData > SILENCE_MS) stream?.abort(); }, 5_000);

start();
