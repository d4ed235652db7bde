// Everything that agents said reaches the screen through text nodes: no markup is ever made of it.

const $ = (id) => document.getElementById(id);
const el = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== false) node.setAttribute(key, value);
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
};
const signed = (value, digits = 2) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

async function unpack(id) {
  const bytes = Uint8Array.from(atob($(id).textContent), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

const chunks = new Map();
const chunk = (index) => {
  if (!chunks.has(index)) chunks.set(index, unpack(`chunk-${index}`).then(JSON.parse));
  return chunks.get(index);
};
const details = async (episode) => (await chunk(episode.at[0]))[episode.at[1]];

// ---------------------------------------------------------------------- theme
const remembered = () => { try { return localStorage.getItem("mappa-theme"); } catch { return null; } };
function paint(theme) {
  document.documentElement.dataset.theme = theme;
  drawCharts();
}
const dark = matchMedia("(prefers-color-scheme: dark)");
const wanted = () => remembered() ?? (dark.matches ? "dark" : "light");
document.documentElement.dataset.theme = wanted();
dark.addEventListener("change", () => paint(wanted()));
$("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("mappa-theme", theme); } catch { /* a page from a file may not remember */ }
  paint(theme);
});

// ---------------------------------------------------------------------- list
let all = [], shown = [], limit = 100, byKey = new Map(), page = {};
const gradeOf = (e) => (e.grade === null ? "none" : e.grade >= 0.999 ? "right" : e.grade <= 0.001 ? "wrong" : "partly");
const rewardOf = (e) => {
  if ($("agent").value) return e.rewards[$("agent").value] ?? null;
  const values = Object.values(e.rewards);
  return values.length ? values.reduce((a, b) => a + b) / values.length : null;
};
const ORDER = {
  rank: (a, b) => a.rank - b.rank,
  advantage: (a, b) => Math.abs(b.advantage ?? 0) - Math.abs(a.advantage ?? 0),
  reward: (a, b) => (rewardOf(a) ?? 2) - (rewardOf(b) ?? 2),
  tokens: (a, b) => b.tokens - a.tokens,
  epoch: (a, b) => a.epoch - b.epoch || (a.key < b.key ? -1 : 1),
};
const where = (e) => (e.set === "training" ? `epoch ${e.epoch}` : `${e.set}, ${e.epoch === 0 ? "untrained" : `after ${e.epoch}`}`);

const told = new Map();  // episode -> all its text in small letters, for the search
async function textOf(episode) {
  if (!told.has(episode.key)) {
    const d = await details(episode);
    const parts = d.actions.flatMap((a) => [a.seat, (a.pieces ?? [a.text]).join(""), a.tool?.text, a.verdict?.reason, ...a.prompt.map((m) => m[1])]);
    told.set(episode.key, [episode.task, episode.id, d.question, d.said, d.key, d.grade?.reason, d.error, ...parts].join("\n").toLowerCase());
  }
  return told.get(episode.key);
}

let asked = 0;
async function filter() {
  const mine = ++asked;
  const want = Object.fromEntries(["set", "epoch", "kind", "grade", "flag", "why", "sort"].map((id) => [id, $(id).value]));
  let found = all.filter((e) =>
    (!want.set || e.set === want.set) && (!want.epoch || String(e.epoch) === want.epoch) && (!want.kind || e.kind === want.kind) &&
    (!want.grade || gradeOf(e) === want.grade) && (!want.flag || Boolean(e[want.flag])) && (!want.why || e.why.includes(want.why)));
  const words = $("search").value.trim().toLowerCase();
  if (words) {
    const texts = await Promise.all(found.map(textOf));
    if (mine !== asked) return;
    found = found.filter((_, i) => texts[i].includes(words));
  }
  shown = found.sort(ORDER[want.sort]);
  limit = 100;
  list();
}

function list() {
  $("episodes").replaceChildren(...shown.slice(0, limit).map(item));
  $("more").hidden = shown.length <= limit;
  $("count").dataset.found = shown.length;
  $("count").textContent = (shown.length === all.length ? "" : `${shown.length.toLocaleString("en")} found. `) + page.count;
}

function item(e) {
  const reward = rewardOf(e);
  return el("li", {}, el("a", { href: `#${encodeURIComponent(e.key)}`, "aria-current": e.key === current ? "true" : null },
    el("span", { class: "line" }, el("span", { class: `mark ${gradeOf(e)}`, title: `grade: ${e.grade ?? "none"}` }), el("span", { class: "grow" }, e.question)),
    el("span", { class: "line quiet" }, el("span", { class: "grow" }, where(e)),
      reward === null ? null : el("span", { class: "number" }, `reward ${reward.toFixed(2)}`),
      e.advantage === null ? null : el("span", { class: `number ${e.advantage < 0 ? "down" : "up"}` }, signed(e.advantage))),
    e.error ? el("span", { class: "line wrong-text" }, el("span", { class: "grow" }, e.error)) : null,
    e.why.length ? el("span", { class: "why" }, e.why.join(" · ")) : null));
}

// ---------------------------------------------------------------------- moving about
let arrived = location.hash.length > 1;
$("episode").addEventListener("click", (event) => {
  const to = event.target.closest("[data-to]");
  if (!to) return;
  event.preventDefault();
  const card = $(to.dataset.to);
  card.scrollIntoView({ block: "center" });
  card.classList.add("pointed");
  setTimeout(() => card.classList.remove("pointed"), 1500);
});
addEventListener("hashchange", open);
addEventListener("keydown", (event) => {
  const step = { j: 1, k: -1 }[event.key];
  if (!step || event.ctrlKey || event.metaKey || /INPUT|SELECT/.test(event.target.tagName)) return;
  const next = shown[Math.max(0, shown.findIndex((e) => e.key === current) + step)];
  if (next) location.hash = encodeURIComponent(next.key);
});

// ---------------------------------------------------------------------- life
async function start() {
  const data = JSON.parse(await unpack("data"));
  all = data.episodes; charts = data.charts;
  page = { shape: data.shape, weights: data.weights, count: $("count").textContent };
  byKey = new Map(all.map((e) => [e.key, e]));
  const sizes = all.map((e) => Math.abs(e.advantage ?? 0)).sort((a, b) => a - b);
  scale = Math.max(0.1, sizes[Math.floor(0.95 * (sizes.length - 1))] ?? 1);
  const offer = (id, values, name = String) => $(id).append(...values.map((value) => el("option", { value }, name(value))));
  const unique = (values) => [...new Set(values)];
  offer("set", unique(all.map((e) => e.set)));
  offer("epoch", unique(all.map((e) => e.epoch)).sort((a, b) => a - b), (value) => `epoch ${value}`);
  offer("kind", unique(all.map((e) => e.kind)).sort());
  offer("why", data.why);
  offer("agent", unique(all.flatMap((e) => Object.keys(e.rewards))), (name) => `reward of ${name}`);
  for (const id of ["set", "epoch", "kind", "grade", "flag", "why", "agent", "sort"]) $(id).addEventListener("change", filter);
  let typing;
  $("search").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(filter, 150); });
  $("more").addEventListener("click", () => { limit += 200; list(); });
  await filter();
  if (location.hash.length > 1) await open();
  else if (all.length && innerWidth > 820) history.replaceState(null, "", `#${encodeURIComponent(shown[0].key)}`), await open();
  document.documentElement.dataset.ready = "true";
  await loadCharts();
  document.documentElement.dataset.charts = "true";
  if (data.stamp) setInterval(async () => {
    const now = await fetch("stamp").then((r) => r.text()).catch(() => null);
    $("live").textContent = now === null ? "not reached any more" : "live";
    if (now && now !== data.stamp) location.reload();
  }, 5000);
}
start();
