// Looks up a key or a tag. The address contains it as #key=…, #tag=…, or #name=… for both, so that links and the browser's
// back button work.
import { request } from "./request.js";
import { $, bytes, duration, element, facts, link, number, table, text } from "./parts.js";

let open = null; // The tag with its keys listed: its query, the keys so far and the next cursor.

const seconds = (ms) => duration(ms == null ? null : ms / 1000);

// A response of 404 is not an error.
async function ask(path) {
  try {
    return await (await request(path)).json();
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

function showEntry(entry) {
  $("entry").hidden = !entry;
  if (!entry) return;
  $("entry-name").textContent = entry.key.text;
  const tags = element("span", null, "names");
  tags.append(...entry.tags.map((tag) => link("tag", tag.query, tag.text)));
  if (entry.tags.length === 0) tags.append("none");
  facts($("entry-facts"), [
    ["State", entry.state],
    ["Tags", tags],
    ["Hits", number(entry.hits)],
    ["Value", bytes(entry.bytes)],
    ["Memory", bytes(entry.memory)],
    ["Expires in", seconds(entry.ttlMs) ?? "never"],
    ["Grace", entry.graceMs ? seconds(entry.graceMs) : "none"],
    ["Written", `${seconds(entry.ageMs)} ago`],
  ]);
}

function showTag(tag) {
  $("tag-found").hidden = !tag;
  if (!tag) return;
  $("tag-name").textContent = tag.tag.text;
  facts($("tag-facts"), [
    ["Entries", number(tag.entries)],
    ["Memory", bytes(tag.bytes)],
    ["Invalidations", number(tag.invalidations)],
    ["Last invalidated", tag.lastInvalidated ? new Date(tag.lastInvalidated).toLocaleString() : "never"],
  ]);
  // A form takes only text, so placeholders for bytes that are not text do not work in it.
  $("tag-drop").hidden = decode(tag.tag.query) !== tag.tag.text;
  open = { query: tag.tag.query, keys: new Map(), cursor: null };
  showKeys(tag);
}

// A scan may return a key twice, and a page of a scan may be empty.
function showKeys(page) {
  for (const key of page.keys) open.keys.set(key.query, key.text);
  open.cursor = page.cursor;
  table("tag-keys", [...open.keys], page.cursor ? "No key on this page." : "No entry carries it now.", [
    ["Key", ([, name]) => name, "key-name", ([query]) => ["key", query]],
  ]);
  $("more").hidden = !page.cursor;
  text("listed", open.keys.size ? `${number(open.keys.size)} ${open.keys.size === 1 ? "key" : "keys"} listed` : "");
}

function decode(query) {
  try { return decodeURIComponent(query); } catch { return ""; }
}

async function more() {
  const mine = open;
  try {
    const page = await ask(`tag?tag=${mine.query}&cursor=${mine.cursor}`);
    if (mine === open) showKeys(page ?? { keys: [], cursor: null });
  } catch (error) {
    text("find-result", `Failed: ${error.message}`);
  }
}

let asked = 0;

// Opens the key or tag in the address.
export async function look() {
  const [, kind, query] = location.hash.match(/^#(key|tag|name)=(.+)$/) ?? [];
  const mine = ++asked;
  $("found").hidden = true;
  text("find-result", "");
  if (!kind) return;
  if (decode(query)) $("find").value = decode(query);
  text("find-result", "Looking…");
  try {
    const [entry, tag] = await Promise.all([
      kind === "tag" ? null : ask(`entry?key=${query}`),
      kind === "key" ? null : ask(`tag?tag=${query}`),
    ]);
    if (mine !== asked) return;
    // This comes first, so that the parts that scroll are known.
    $("found").hidden = !entry && !tag;
    showEntry(entry);
    showTag(tag);
    const what = { key: "entry of this key", tag: "tag of this name", name: "entry or tag of this name" }[kind];
    text("find-result", entry || tag ? `As of ${new Date().toLocaleTimeString()}` : `There is no ${what}.`);
    // After a link, the focus moves here. After typing, it stays in the field.
    if (document.activeElement !== $("find") && (entry || tag)) {
      $(entry ? "entry-title" : "tag-title").focus({ preventScroll: true });
      $("look-up").scrollIntoView({ block: "start" });
    }
  } catch (error) {
    if (mine === asked) text("find-result", `Failed: ${error.message}`);
  }
}

// The names on the page are suggestions in the field.
export function offer(names) {
  const known = [...new Set(names)].filter((name) => name.length <= 200);
  $("known").replaceChildren(...known.map((name) => Object.assign(document.createElement("option"), { value: name })));
}

$("find-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const hash = `#name=${encodeURIComponent($("find").value)}`;
  if (location.hash === hash) look();
  else location.hash = hash;
});
$("more").addEventListener("click", more);
$("tag-drop").addEventListener("click", () => {
  $("tag").value = $("tag-name").textContent;
  $("control").scrollIntoView({ block: "center" });
  $("tag").focus({ preventScroll: true });
});
addEventListener("hashchange", look);
