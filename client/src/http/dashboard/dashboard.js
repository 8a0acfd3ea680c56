// The dashboard: shows what api/admin/memory-stats says, live by its stream, else once a minute.
const REFRESH_MS = 60_000;
const RECONNECT_MS = 3_000;
const SLOW_MS = 10_000; // charts and tables are fetched at most so often
const TOKEN = "tagcache-token";

const $ = (id) => document.getElementById(id);
// A session's own storage: the token is gone with the tab.
let token = sessionStorage.getItem(TOKEN);
let last = null;
let stream = null;
let slowDue = 0;

class HttpError extends Error {
  constructor(status, detail) { super(detail); this.status = status; }
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  const response = await fetch(`api/admin/${path}`, { ...options, headers, cache: "no-store" });
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw new HttpError(response.status, problem.detail ?? response.statusText);
  }
  return response;
}

// ---- what is shown ----

function only(part) {
  for (const id of ["loading", "sign-in", "content"]) $(id).hidden = id !== part;
  $("sign-out").hidden = !token || part === "sign-in";
}

function text(id, value) {
  const element = $(id);
  const shown = value ?? "unknown";
  if (element.textContent !== shown) element.textContent = shown;
}

const number = (n, digits = 0) =>
  n == null ? null : n.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const bytes = (n) => {
  if (n == null) return null;
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit++; }
  return `${number(n, unit ? 2 : 0)} ${units[unit]}`;
};
const percent = (n) => (n == null ? null : `${number(n, 1)}%`);
const duration = (s) => {
  if (s == null) return null;
  if (s < 120) return `${number(s)} s`;
  return s < 7200 ? `${number(s / 60)} min` : `${number(s / 3600, 1)} h`;
};

function badge(element, label, kind) {
  if (element.textContent !== label) element.textContent = label;
  element.className = `badge ${kind}`;
}

function show(stats) {
  last = stats;
  const raw = stats.raw;
  const up = stats.cache.redis.connected;
  const figures = up ? raw.server.figures : null;
  const cache = figures?.cache ?? null;
  badge($("status"), stats.status.toUpperCase(), stats.status);
  text("instance", raw.instance);
  text("heap-used", stats.memory.heapUsed);
  text("heap-percent", stats.memory.heapPercent);
  $("heap-meter").hidden = raw.heapPercent == null;
  if (raw.heapPercent != null) {
    $("heap-meter").value = raw.heapPercent;
    $("heap-meter").textContent = stats.memory.heapPercent;
  }
  // Without a local tier the entries are the server's.
  text("entries", number(raw.local ? stats.cache.local.totalEntries : cache?.entries ?? (up ? 0 : null)));
  const watched = raw.server.state !== "none";
  badge($("redis"), !watched ? "Not watched" : up ? "Connected" : "Disconnected", !watched ? "" : up ? "connected" : "disconnected");
  $("redis-error").textContent = raw.server.state === "unreachable" ? raw.server.error : "";

  text("hit-rate", percent(raw.rates.hitRate) ?? "no reads");
  text("growth", raw.growth ? `${raw.growth.mbPerMinute >= 0 ? "+" : "−"}${number(Math.abs(raw.growth.mbPerMinute), 2)} MB/min` : null);
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
      ["Bytes", (e) => number(e.bytes) ?? "–", "number"],
      ["Tags", (e) => e.tags?.join(", ") ?? "–", "key-name"],
    ]);
  }
  $("failure").hidden = true;
  only("content");
  if (Date.now() >= slowDue) refreshSlow();
}

function showAlerts(raw) {
  const rules = raw.alerts.map((rule) => ({ ...rule, kind: rule.state === "quiet" ? "quiet-rule" : rule.state }));
  if (raw.leakSuspected) {
    const rate = raw.growth ? number(raw.growth.mbPerMinute, 2) : "?";
    rules.unshift({ name: "Memory leak suspected", severity: "warning", condition: `steady growth of ${rate} MB/min`, state: "firing", kind: "firing", seconds: null });
  }
  rules.sort((a, b) => (b.state === "firing") - (a.state === "firing"));
  table("alerts", rules, "No rules are loaded.", [
    ["State", (r) => r.state, (r) => `badge ${r.kind}`],
    ["Rule", (r) => r.name],
    ["Severity", (r) => r.severity],
    ["Condition", (r) => r.condition, "key-name"],
    ["For", (r) => duration(r.seconds) ?? "–", "number"],
  ]);
}

// Columns: title, text of a row, and a class for the cell or, as a function, for a badge in it.
function table(id, rows, empty, columns) {
  const place = $(id);
  if (rows == null || rows.length === 0) {
    const p = document.createElement("p");
    p.className = "empty";
    p.textContent = rows == null ? "The server does not tell." : empty;
    return place.replaceChildren(p);
  }
  const result = document.createElement("table");
  const head = result.createTHead().insertRow();
  for (const [title, , kind] of columns) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = title;
    if (kind === "number") cell.className = kind;
    head.append(cell);
  }
  const body = result.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const [title, value, kind] of columns) {
      const cell = line.insertCell();
      cell.dataset.title = title;
      if (typeof kind === "function") {
        const label = document.createElement("span");
        label.className = kind(row);
        label.textContent = value(row);
        cell.append(label);
      } else {
        cell.textContent = value(row);
        if (kind) cell.className = kind;
      }
    }
  }
  place.replaceChildren(result);
}

function fail(error) {
  if (error.status === 401) return askForToken(token ? "This token is not accepted." : "");
  const titles = { 403: "Not allowed", 429: "Too many requests" };
  text("failure-title", titles[error.status] ?? "Failed to fetch memory stats");
  const since = last ? ` Last figures: ${new Date(last.timestamp).toLocaleTimeString()}.` : "";
  text("failure-detail", `${(error.message || "The endpoint does not answer").replace(/\.?$/, ".")}${since}`);
  $("failure").hidden = false;
  $("loading").hidden = true;
  text("live", "Not updated");
}

function askForToken(error) {
  sessionStorage.removeItem(TOKEN);
  token = null;
  last = null;
  stream?.abort();
  $("failure").hidden = true;
  only("sign-in");
  text("live", "Not signed in");
  $("sign-in-error").textContent = error;
  $("token").value = "";
  $("token").focus();
}

// ---- where it comes from ----

async function load() {
  try {
    show(await (await request("memory-stats")).json());
    text("live", `Updated ${new Date(last.timestamp).toLocaleTimeString()}`);
    return true;
  } catch (error) {
    fail(error);
    return false;
  }
}

// EventSource cannot send a token, so the stream is read by hand.
async function follow() {
  stream?.abort();
  const mine = (stream = new AbortController());
  try {
    const response = await request("memory-stats/stream", { signal: mine.signal });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.split("\n").filter((l) => l.startsWith("data:")).map((l) => l.slice(5)).join("\n");
        if (data) {
          show(JSON.parse(data));
          text("live", `Live, ${new Date(last.timestamp).toLocaleTimeString()}`);
        }
      }
    }
  } catch (error) {
    if (mine.signal.aborted) return;
    if (error.status === 401) return fail(error);
  }
  // It ended: one look tells whether the endpoint is there at all.
  if (stream === mine) setTimeout(async () => { if (stream === mine && (await load()) && stream === mine) follow(); }, RECONNECT_MS);
}

async function refreshSlow() {
  slowDue = Date.now() + SLOW_MS;
  await Promise.all([overview(), ...[...document.querySelectorAll("[data-chart]")].map(chart)]);
}

async function overview() {
  try {
    const { topKeys, tags, instances } = await (await request("overview")).json();
    table("top", topKeys, "Nothing was read yet.", [
      ["Key", (k) => k.key, "key-name"],
      ["Hits", (k) => number(k.hits), "number"],
    ]);
    table("tags", tags, "No entry carries a tag.", [
      ["Tag", (t) => t.tag, "key-name"],
      ["Entries", (t) => number(t.entries), "number"],
      ["Memory", (t) => bytes(t.bytes), "number"],
    ]);
    table("instances", instances, "No instance has published its figures.", [
      ["Instance", (i) => i.instance, "key-name"],
      ["Status", (i) => i.status.toUpperCase(), (i) => `badge ${i.status}`],
      ["Heap", (i) => percent(i.heapPercent) ?? "unknown", "number"],
      ["Resident", (i) => bytes(i.rss) ?? "unknown", "number"],
      ["Hit rate", (i) => percent(i.hitRate) ?? "no reads", "number"],
      ["Leak", (i) => (i.leakSuspected ? "suspected" : "no")],
      ["Up", (i) => duration(i.uptimeSeconds), "number"],
    ]);
  } catch { /* the statistics tell of failures */ }
}

async function chart(place) {
  try {
    const width = Math.max(200, Math.round(place.clientWidth));
    const response = await request(`charts/${place.dataset.chart}?width=${width}&height=200`);
    if (response.status === 204) {
      if (!place.querySelector("svg")) place.textContent = "Not enough figures yet.";
      return;
    }
    const drawing = new DOMParser().parseFromString(await response.text(), "image/svg+xml");
    place.replaceChildren(document.importNode(drawing.documentElement, true));
  } catch { /* the last drawing stays */ }
}

// ---- what it does ----

async function change(path, body, done) {
  try {
    const options = { method: "POST" };
    if (body) Object.assign(options, { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
    text("control-result", done(await (await request(path, options)).json()));
    slowDue = 0;
  } catch (error) {
    if (error.status === 401) return fail(error);
    text("control-result", `Failed: ${error.message}`);
  }
}

const entries = (n) => (n == null ? "No server is watched." : `${number(n)} ${n === 1 ? "entry" : "entries"} dropped.`);

$("invalidate-form").addEventListener("submit", (event) => {
  event.preventDefault();
  change("cache/invalidate", { tags: [$("tag").value] }, (answer) => entries(answer.invalidated));
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
  token = $("token").value.trim();
  sessionStorage.setItem(TOKEN, token);
  only("loading");
  start();
});
$("sign-out").addEventListener("click", () => askForToken(""));
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => last && refreshSlow(), 250);
});

// A laptop that wakes up, or a network that is back: look at once.
addEventListener("online", () => { if ($("sign-in").hidden) load(); });

async function start() {
  slowDue = 0;
  if (await load()) follow();
}

start();
// The stream may be cut by what lies between: once a minute a look of our own.
setInterval(() => { if ($("sign-in").hidden) load().then((ok) => { if (ok && (!stream || stream.signal.aborted)) follow(); }); }, REFRESH_MS);
