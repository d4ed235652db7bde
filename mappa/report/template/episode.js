// One episode as the conversation that it was: cards of actions, in a column, in rounds, in two columns, or as a tree.

let current = null, seats = new Map(), scale = 1;
const colour = (seat) => { if (!seats.has(seat)) seats.set(seat, SEATS[seats.size % SEATS.length]); return seats.get(seat); };
const tint = (value) => `color-mix(in srgb, var(--${value < 0 ? "bad" : "good"}) ${Math.round(45 * Math.min(1, Math.abs(value) / scale))}%, transparent)`;

function completion(a) {
  const box = el("div", { class: "text" });
  if (!a.pieces) { box.append(a.text); return box; }
  a.pieces.forEach((piece, i) => {
    if (a.omitted && i === a.pieces.length / 2) box.append(el("i", { class: "quiet" }, `\n… ${a.omitted} tokens omitted …\n`));
    const advantage = a.advantages && (a.advantages.length === 1 ? a.advantages[0] : a.advantages[i]);
    const told = [advantage === undefined || advantage === null ? "" : `${page.weights ? "weight" : "advantage"} ${signed(advantage)}`, `log-probability ${a.logprobs[i]}`];
    const span = el("span", { title: told.filter(Boolean).join(", "), class: a.logprobs[i] < -2 ? "unlikely" : null }, piece);
    if (advantage) span.style.background = tint(advantage);
    box.append(span);
  });
  return box;
}

function prompt(a) {
  const folded = el("details", { class: "prompt" }, el("summary", {}, `what it saw, ${plural(a.prompt_tokens, "token")}${a.hinted ? ", with a hint that is not learned under" : ""}`));
  folded.addEventListener("toggle", () => {
    if (folded.open && folded.children.length === 1)
      for (const [role, text] of a.prompt) if (text) folded.append(el("div", { class: "message" }, el("div", { class: "role" }, role), el("pre", { class: "text" }, text)));
  });
  return folded;
}

function tool(a) {
  const failed = a.tool.status !== "ok";
  return el("div", { class: `tool ${failed ? "failed" : ""}` },
    el("div", { class: "quiet" }, "ran code: ", el("span", { class: failed ? "wrong-text" : "right-text" }, a.tool.status), `, ${a.tool.seconds.toFixed(2)} s`, a.tool.restarted ? ", the kernel was lost and started anew" : ""),
    el("details", { class: "code" }, el("summary", {}, "code"), el("pre", { class: "text" }, a.tool.code)),
    a.tool.text ? el("pre", { class: "text" }, a.tool.text) : null);
}

function card(a, place, d, prefix) {
  const id = `${prefix}${place}`, link = (target) => el("a", { href: "#", "data-to": `${prefix}${target}` }, `${d.actions[target].seat}, action ${target + 1}`);
  const find = (name) => d.actions.findIndex((other) => other.id === name);
  const blamed = d.actions.map((other, i) => (other.failure === a.id ? i : -1)).filter((i) => i >= 0);
  const node = el("article", { class: `card ${place < d.shared ? "replayed" : ""}`, id },
    el("header", {},
      el("span", { class: "seat" }, a.seat), a.agent !== a.seat ? el("span", { class: "quiet" }, `adapter ${a.agent}`) : null,
      el("span", { class: "quiet" }, `action ${place + 1}${a.turn ? `, turn ${a.turn + 1}` : ""}, ${plural(a.tokens, "token")}`),
      a.stop === "length" ? el("span", { class: "chip wrong-text" }, "cut off: not learned") : null,
      place < d.shared ? el("span", { class: "chip" }, "replayed from its parent") : null,
      a.advantage !== null ? el("span", { class: `chip number ${a.advantage < 0 ? "down" : "up"}` }, `${page.weights ? "weight" : "advantage"} ${signed(a.advantage)}`) : null),
    prompt(a), completion(a), a.tool ? tool(a) : null,
    a.files.length ? el("div", { class: "chips" }, "files made", ...a.files.map((name) => el("code", { class: "chip" }, name))) : null,
    a.verdict ? el("div", { class: "verdict" },
      el("span", { class: `score ${a.verdict.score === null ? "" : a.verdict.score >= 7 ? "right-text" : a.verdict.score < 5 ? "wrong-text" : ""}` }, a.verdict.score === null ? "no verdict" : `${+a.verdict.score.toFixed(1)} / 10`),
      el("span", {}, a.verdict.reason)) : null,
    a.failure ? el("p", { class: "blame" }, "its own code ran; what failed after it: ", a.failure === "grade" ? "the episode's grade" : link(find(a.failure))) : null,
    blamed.length ? el("p", { class: "blame" }, "put down to ", ...blamed.flatMap((i, n) => (n ? [", ", link(i)] : [link(i)]))) : null);
  node.style.setProperty("--seat", colour(a.seat));
  return node;
}

function conversation(d, prefix) {
  const cards = d.actions.map((a, i) => card(a, i, d, prefix));
  if (page.shape === "debate") return rounds(d, cards);
  const box = el("div", { class: page.shape });
  const first = d.actions[0]?.seat;
  d.actions.forEach((a, i) => { if (page.shape === "dialogue" && a.seat !== first) cards[i].classList.add("second"); box.append(cards[i]); });
  return box;
}

// Chain k is generator k and critic k; who speaks before a critic (the summariser) stands above it.
function rounds(d, cards) {
  const box = el("div", { class: "debate" }), spoke = new Map();
  let waiting = [];
  d.actions.forEach((a, i) => {
    const chain = /_(\d+)$/.exec(a.seat)?.[1];
    if (!chain) { waiting.push(cards[i]); return; }
    const round = spoke.get(chain) ?? 0;
    spoke.set(chain, round + 1);
    while (box.querySelectorAll(".grid").length <= round) {
      const number = box.querySelectorAll(".grid").length + 1;
      box.append(el("h3", { class: "round" }, `round ${number}`), el("div", { class: "grid" }));
    }
    box.querySelectorAll(".grid")[round].append(el("div", { class: "chain" }, ...waiting, cards[i]));
    waiting = [];
  });
  box.append(...waiting);
  return box;
}

// Attempts at one task that branch off from one another: a row each, a dot for each action.
function tree(episode) {
  const family = all.filter((e) => e.set === episode.set && e.epoch === episode.epoch && e.task === episode.task).sort((a, b) => (a.id < b.id ? -1 : 1));
  if (!family.some((e) => e.parent)) return null;
  const svg = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const box = el("div", { class: "tree" });
  Promise.all(family.map(details)).then((found) => {
    const longest = Math.max(...found.map((d) => d.actions.length)), x = (i) => 14 + 34 * i, y = (r) => 14 + 26 * r;
    const drawing = svg("svg", { width: x(longest) + 150, height: y(family.length), role: "img", "aria-label": "attempts and where they branch" });
    const lines = [], dots = [];
    family.forEach((e, r) => {
      const d = found[r], above = family.findIndex((other) => other.id === e.parent), from = Math.max(0, d.shared - 1);
      if (above >= 0 && d.shared) lines.push(`M${x(from)},${y(above)} h17 V${y(r)} H${x(d.shared)}`);
      lines.push(`M${x(d.shared)},${y(r)} H${x(d.actions.length - 1)}`);
      const row = svg("a", { href: `#${encodeURIComponent(e.key)}`, class: e.key === episode.key ? "here" : "" });
      d.actions.slice(d.shared).forEach((a, i) => {
        const dot = svg("circle", { cx: x(i + d.shared), cy: y(r), r: 7 }, svg("title", {}, `${a.seat}${a.advantage === null ? "" : `, ${page.weights ? "weight" : "advantage"} ${signed(a.advantage)}`}`));
        if (a.advantage !== null) dot.style.fill = a.advantage < 0 ? "var(--bad)" : "var(--good)";
        row.append(dot);
      });
      row.append(svg("text", { x: x(d.actions.length - 1) + 16, y: y(r) + 4 }, `${e.id}  ${e.grade === null ? "failed" : `grade ${+e.grade.toFixed(2)}`}`));
      dots.push(row);
    });
    drawing.append(svg("path", { d: lines.join(" ") }), ...dots);
    box.append(drawing);
  });
  return box;
}

function about(episode, d) {
  const rows = [["answer", d.said || "none"], ...(d.key === null ? [] : [["key", d.key]])];
  const grade = d.grade && d.grade.score !== null ? `${+d.grade.score.toFixed(3)}${d.grade.reason ? `, ${d.grade.reason}` : ""}` : "none";
  const metrics = Object.entries(d.grade?.metrics ?? {}).map(([key, value]) => `${key} ${value === null ? "no number" : +Number(value).toFixed(3)}`);
  const others = all.filter((e) => e !== episode && e.task === episode.task && e.set === episode.set);
  const drawn = tree(episode);
  const link = (e) => el("a", { class: "chip", href: `#${encodeURIComponent(e.key)}` }, el("span", { class: `mark ${gradeOf(e)}` }), ` ${where(e)} · ${e.id}`);
  return el("div", { class: "about" },
    el("p", { class: "quiet" }, `${where(episode)} · ${episode.id} · ${episode.task}`),
    el("div", { class: "question" }, d.question),
    el("dl", {}, ...rows.flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)]),
      el("dt", {}, "grade"), el("dd", { class: gradeOf(episode) === "right" ? "right-text" : gradeOf(episode) === "wrong" ? "wrong-text" : null }, grade),
      ...(metrics.length ? [el("dt", {}, "measures"), el("dd", {}, metrics.join(", "))] : []),
      ...(d.error ? [el("dt", {}, "error"), el("dd", { class: "wrong-text" }, d.error)] : []),
      ...(episode.why.length ? [el("dt", {}, "telling"), el("dd", { class: "why" }, episode.why.join(", "))] : [])),
    drawn,
    others.length && !drawn ? el("div", { class: "chips" }, "same task", ...others.slice(0, 12).map(link), others.length > 12 ? `and ${others.length - 12} more` : null) : null);
}

const outcome = (e, d) => `${e.grade === null ? "no grade" : `grade ${+e.grade.toFixed(3)}`}, ${d.said || "no answer"}`;

const keyOf = (hash) => { try { return decodeURIComponent(hash.slice(1)); } catch { return ""; } };

async function open() {
  const key = keyOf(location.hash);
  const episode = byKey.get(key);
  if (!episode) return;
  current = key;
  const box = $("episode"), d = await details(episode);
  const back = el("button", { class: "back", type: "button" }, "← episodes");
  back.addEventListener("click", () => document.querySelector(".list").scrollIntoView());
  const before = byKey.get(episode.before), parts = [back, about(episode, d)];
  if (before) {
    const earlier = await details(before);
    parts.push(el("div", { class: "sides" },
      el("section", {}, el("h3", {}, `untrained: ${outcome(before, earlier)}`), conversation(earlier, "before-")),
      el("section", {}, el("h3", {}, `after ${plural(episode.epoch, "epoch")}: ${outcome(episode, d)}`), conversation(d, "action-"))));
  } else parts.push(conversation(d, "action-"));
  if (current !== key) return;
  box.replaceChildren(...parts);
  for (const link of $("episodes").querySelectorAll("a")) link.toggleAttribute("aria-current", link.hash === location.hash);
  if (asked > 1 || innerWidth <= 820 || arrived) box.scrollIntoView();
  arrived = true;
}
