// Parts of the page: elements, numbers as text, tables.

export const $ = (id) => document.getElementById(id);

export function text(id, value) {
  const element = $(id);
  const shown = value ?? "unknown";
  if (element.textContent !== shown) element.textContent = shown;
}

export function element(name, content, kind) {
  const result = document.createElement(name);
  if (content != null) result.append(content);
  if (kind) result.className = kind;
  return result;
}

export const number = (n, digits = 0) =>
  n == null ? null : n.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
export const bytes = (n) => {
  if (n == null) return null;
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  while (n >= 1024 && unit < units.length - 1) { n /= 1024; unit++; }
  return `${number(n, unit ? 2 : 0)} ${units[unit]}`;
};
export const percent = (n) => (n == null ? null : `${number(n, 1)}%`);
export const growth = (mb) => {
  const sign = mb >= 0.005 ? "+" : mb <= -0.005 ? "−" : "";
  return `${sign}${number(Math.abs(mb), 2)} MB/min`;
};
export const duration = (s) => {
  if (s == null) return null;
  if (s < 120) return `${number(s)} s`;
  return s < 7200 ? `${number(s / 60)} min` : `${number(s / 3600, 1)} h`;
};

export function badge(element, label, kind) {
  if (element.textContent !== label) element.textContent = label;
  element.className = `badge ${kind}`;
}

// Terms and their values, as a list of rows.
export function facts(place, pairs) {
  place.replaceChildren(...pairs.map(([term, value]) => {
    const row = element("div", element("dt", term));
    row.append(element("dd", value ?? "unknown"));
    return row;
  }));
}

// Its direction of writing follows its own text.
export const bdi = (content, kind) => element("bdi", content, kind);

// A key or a tag, as a link that opens it.
export function link(kind, query, name) {
  const result = element("a", bdi(name));
  result.href = `#${kind}=${query}`;
  return result;
}

// The content of each table. A table without changes is not replaced, so that selections and scroll positions stay.
const shown = new Map();

// Columns: a title, the text of a row, a class for the cell (or a function: the class of a badge in it), and the link's target.
export function table(id, rows, empty, columns) {
  const place = $(id);
  const cells = rows?.map((row) => columns.map(([title, value, kind, target]) => {
    const badge = typeof kind === "function";
    return { title, value: value(row), kind: badge ? kind(row) : kind ?? "", badge, target: target?.(row) };
  }));
  const state = JSON.stringify(cells ?? null);
  if (shown.get(id) === state) return;
  shown.set(id, state);
  if (cells == null || cells.length === 0) {
    place.replaceChildren(element("p", cells == null ? "The server does not report this." : empty, "empty"));
    return reachable(place);
  }
  const result = document.createElement("table");
  const head = result.createTHead().insertRow();
  for (const [title, , kind] of columns) {
    const cell = element("th", title, kind === "number" ? kind : "");
    cell.scope = "col";
    head.append(cell);
  }
  const body = result.createTBody();
  for (const row of cells) {
    const line = body.insertRow();
    for (const { title, value, kind, badge, target } of row) {
      const cell = line.insertCell();
      cell.dataset.title = title;
      if (!badge) cell.className = kind;
      cell.append(target ? link(...target, value) : bdi(value, badge ? kind : ""));
    }
  }
  place.replaceChildren(result);
  reachable(place);
  place.querySelectorAll(".key-name bdi").forEach(reachable);
}

// Parts that scroll can be reached by keyboard. Other parts are skipped.
export function reachable(place) {
  if (place.scrollWidth > place.clientWidth || place.scrollHeight > place.clientHeight) place.tabIndex = 0;
  else place.removeAttribute("tabindex");
}
