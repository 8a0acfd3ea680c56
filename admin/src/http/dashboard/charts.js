// The charts. The server draws them. This code shows the values at the pointer or the keyboard's cursor, and lists all values.
import { request } from "./request.js";
import { $, element, number, table } from "./parts.js";

const RANGE = "tagcache-range";
const ROWS = 60; // The longest list: more rows are too many for a screen reader.
const SVG = "http://www.w3.org/2000/svg";
const drawn = new Map(); // By place: unit, plot, moments in order of time, and the moment that the cursor is at.

const places = () => [...document.querySelectorAll("[data-chart]")];
const range = () => document.querySelector("[name=range]:checked").value;
const clock = (chart, moment) => new Date(chart.last + moment.ago * 1000).toLocaleTimeString();
const value = (chart, n) => `${number(n, chart.unit === "entries" ? 0 : 1)} ${chart.unit}`;

export const drawCharts = () => Promise.all(places().map(draw));

async function draw(place) {
  try {
    const width = Math.max(200, Math.round(place.clientWidth));
    const asked = range();
    const response = await request(`charts/${place.dataset.chart}?width=${width}&height=200&range=${asked}`);
    if (asked !== range()) return;
    if (response.status === 204) {
      if (!drawn.has(place)) place.textContent = "Nothing to draw yet.";
      return;
    }
    const drawing = new DOMParser().parseFromString(await response.text(), "image/svg+xml").documentElement;
    const { series, ...chart } = JSON.parse(drawing.querySelector("metadata").textContent);
    const moments = new Map();
    series.forEach(({ points }, i) => points.forEach(([ago, n]) => {
      if (!moments.has(ago)) moments.set(ago, { ago, values: series.map(() => null) });
      moments.get(ago).values[i] = n;
    }));
    const before = drawn.get(place);
    const was = before?.cursor == null ? null : before.moments[before.cursor].ago;
    chart.names = series.map(({ name }) => name);
    chart.moments = [...moments.values()].sort((a, b) => a.ago - b.ago);
    chart.line = document.createElementNS(SVG, "line");
    chart.line.setAttribute("class", "cursor");
    drawn.set(place, chart);
    place.replaceChildren(document.importNode(drawing, true));
    place.firstElementChild.append(chart.line);
    place.role = "slider";
    place.tabIndex = 0;
    place.ariaLabel = `${place.querySelector("title").textContent}. Arrow keys go through the values.`;
    point(place, was == null ? null : nearest(chart, was));
    list(place);
  } catch { /* the last drawing stays */ }
}

function nearest(chart, ago) {
  const away = (moment) => Math.abs(moment.ago - ago);
  return chart.moments.reduce((best, moment, i) => (away(moment) < away(chart.moments[best]) ? i : best), 0);
}

function described(chart, moment) {
  const values = moment.values.map((n, i) => (n == null ? null : `${chart.names[i]} ${value(chart, n)}`));
  return [clock(chart, moment), ...values.filter(Boolean)].join(", ");
}

// Moves the cursor to a moment, or removes it.
function point(place, index) {
  const chart = drawn.get(place);
  chart.cursor = index;
  const last = chart.moments.length - 1;
  const moment = chart.moments[index ?? last];
  const { left, right, top, bottom } = chart.plot;
  const x = left + (1 - moment.ago / chart.from) * (right - left);
  for (const [name, at] of Object.entries({ x1: x, x2: x, y1: top, y2: bottom })) chart.line.setAttribute(name, at);
  chart.line.setAttribute("visibility", index == null ? "hidden" : "visible");
  place.nextElementSibling.textContent = index == null ? "" : described(chart, moment);
  Object.assign(place, { ariaValueMin: "0", ariaValueMax: `${last}`, ariaValueNow: `${index ?? last}`, ariaValueText: described(chart, moment) });
}

function hover(place, event) {
  const chart = drawn.get(place);
  if (!chart) return;
  const box = place.getBoundingClientRect();
  const drawing = place.querySelector("svg");
  const x = ((event.clientX - box.left) / box.width) * drawing.viewBox.baseVal.width;
  point(place, nearest(chart, chart.from * (1 - (x - chart.plot.left) / (chart.plot.right - chart.plot.left))));
}

function key(place, event) {
  const chart = drawn.get(place);
  const last = chart ? chart.moments.length - 1 : 0;
  const at = chart?.cursor ?? last;
  const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, PageDown: at - 10, PageUp: at + 10, Home: 0, End: last }[event.key];
  if (!chart || to == null) return;
  event.preventDefault();
  point(place, Math.min(Math.max(to, 0), last));
}

// The list of a chart's values: the newest first, and only some of them if there are more than ROWS.
function list(place) {
  const chart = drawn.get(place);
  if (!chart || !place.parentElement.querySelector("details").open) return;
  const step = Math.ceil(chart.moments.length / ROWS);
  const rows = chart.moments.filter((_, i) => (chart.moments.length - 1 - i) % step === 0).reverse();
  table(`${place.id}-values`, rows, "", [
    ["Time", (moment) => clock(chart, moment)],
    ...chart.names.map((name, i) => [name, (moment) => (moment.values[i] == null ? "–" : value(chart, moment.values[i])), "number"]),
  ]);
}

for (const place of places()) {
  const values = element("div", null, "scroll values");
  values.id = `${place.id}-values`;
  const details = element("details", element("summary", "Values as a table"));
  details.append(values);
  place.after(element("p", null, "at"), details);
  details.addEventListener("toggle", () => list(place));
  place.addEventListener("pointermove", (event) => hover(place, event));
  place.addEventListener("pointerleave", () => drawn.has(place) && document.activeElement !== place && point(place, null));
  place.addEventListener("focus", () => drawn.has(place) && point(place, drawn.get(place).cursor ?? drawn.get(place).moments.length - 1));
  place.addEventListener("blur", () => drawn.has(place) && point(place, null));
  place.addEventListener("keydown", (event) => key(place, event));
}

const kept = document.querySelector(`[name=range][value="${sessionStorage.getItem(RANGE)}"]`);
if (kept) kept.checked = true;
$("range").addEventListener("change", () => {
  sessionStorage.setItem(RANGE, range());
  drawCharts();
});
