// The page of a cluster: asks the server that it came from for all members every second, and draws what that says.
// It loads nothing from elsewhere. What members say is text to it, never markup.
"use strict";

const PERIOD = 1000; // ms from one answer to the next question
const SLOWEST = 5000; // the same, after failures
const PATIENCE = 6000; // an answer that takes longer is none
const SPAN = 120000; // what the graphs show
const EVENTS = 200;
const VERSION = document.querySelector("meta[name=pyraft-page]").content;
const TOKEN = "pyraft-token";

// An address that ends with #token=… brings the token along; it stays out of what the browser remembers.
if (location.hash.startsWith("#token=")) {
  sessionStorage.setItem(TOKEN, location.hash.slice(7));
  history.replaceState(null, "", location.pathname + location.search);
}

const $ = (id) => document.getElementById(id);

// ---- asking ---------------------------------------------------------------------------------------------------------

class Refusal extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

async function ask(path, change) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = "Bearer " + token;
  const options = { headers, cache: "no-store", credentials: "same-origin" };
  if (change) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(change) });
  }
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), change ? 4 * PATIENCE : PATIENCE);
  try {
    const response = await fetch(path, { ...options, signal: stop.signal });
    const answer = await response.json();
    if (!response.ok) throw new Refusal(response.status, answer.error || response.statusText);
    return answer;
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new Error(stop.signal.aborted ? "it takes the connection and does not answer" : "it cannot be reached");
  } finally {
    clearTimeout(timer);
  }
}

let failures = 0;
let timer = 0;
let asking = false;

async function poll() {
  clearTimeout(timer);
  if (asking || document.hidden) return; // a tab that nobody sees asks nothing
  asking = true;
  try {
    const view = await ask("cluster");
    failures = 0;
    draw(view);
  } catch (error) {
    failures += 1;
    failed(error);
  } finally {
    asking = false;
  }
  timer = setTimeout(poll, Math.min(SLOWEST, PERIOD * Math.max(1, failures)));
}

// ---- what there is to say ---------------------------------------------------------------------------------------------

const STATES = { leader: "leads", follower: "follows", candidate: "stands for election", unavailable: "has stopped" };

function state(member) {
  if (!member.status) return "no answer";
  return STATES[member.status.state] || member.status.state;
}

function remarks(member) {
  const s = member.status;
  if (!s) return member.problem;
  const found = [];
  if (s.cause) found.push("it has stopped: " + s.cause);
  if (s.disk) found.push("disk: " + s.disk);
  if (s.recovering) found.push("no part in elections: " + s.recovering);
  if (s.snapshot_problem) found.push("snapshots: " + s.snapshot_problem);
  if (s.stuck) found.push("its state machine refuses entry " + s.stuck);
  return found.join("; ");
}

function size(n) {
  if (n === undefined || n < 0) return "–";
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (n < 1024 || unit === "TiB") return (unit === "B" ? n : n.toFixed(1)) + " " + unit;
    n /= 1024;
  }
}

function span(seconds) {
  if (seconds === undefined || seconds < 0) return "–";
  if (seconds < 120) return Math.floor(seconds) + " s";
  if (seconds < 7200) return Math.floor(seconds / 60) + " min";
  return seconds < 172800 ? Math.floor(seconds / 3600) + " h" : Math.floor(seconds / 86400) + " d";
}

function duration(seconds) {
  if (seconds >= 1) return seconds.toFixed(seconds < 10 ? 1 : 0) + " s";
  const ms = 1000 * seconds;
  return ms.toFixed(ms < 1 ? 2 : ms < 10 ? 1 : 0) + " ms";
}

const count = (n) => Math.round(n).toLocaleString("en").replaceAll(",", "\u202f");

function clock(date) {
  return date.toLocaleTimeString("en-GB");
}

// Shorter names for the ring: what all addresses have in common tells nothing.
function names(members, most) {
  const parts = members.map((one) => {
    const at = one.address.lastIndexOf(":");
    return [one.address.slice(0, at), one.address.slice(at)];
  });
  const hosts = new Set(parts.map((one) => one[0]));
  const ports = new Set(parts.map((one) => one[1]));
  return parts.map(([host, port]) => {
    const name = hosts.size === 1 && parts.length > 1 ? port : ports.size === 1 ? host : host + port;
    return name.length > most ? name.slice(0, most - 5) + "…" + name.slice(-4) : name;
  });
}

// ---- drawing ----------------------------------------------------------------------------------------------------------

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function element(name, kind, text) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

function lines(view, at) {
  const made = [];
  const index = new Map(view.members.map((one, i) => [one.id, i]));
  const leader = index.has(view.leader) ? index.get(view.leader) : -1;
  const drawn = new Set();
  const draw = (a, b, kind) => {
    const pair = Math.min(a, b) + " " + Math.max(a, b);
    if (a === b || drawn.has(pair)) return;
    drawn.add(pair);
    const [[x1, y1], [x2, y2]] = [at[a], at[b]];
    made.push(svg("path", { class: "link " + kind, d: `M${x1} ${y1}L${x2} ${y2}` }));
    if (kind !== "gone") return;
    const [x, y] = [(x1 + x2) / 2, (y1 + y2) / 2];
    made.push(svg("path", { class: "cross", d: `M${x - 5} ${y - 5}l10 10M${x + 5} ${y - 5}l-10 10` }));
  };
  if (leader >= 0) {
    const links = new Map(view.members[leader].status.links.map((row) => [row[0], row[2]]));
    view.members.forEach((one, i) => draw(leader, i, links.get(one.id) ? "strong" : "gone"));
  }
  view.members.forEach((one, i) => {
    for (const [id, , there] of one.status ? one.status.links : [])
      if (there && index.has(id)) draw(i, index.get(id), "");
  });
  return made;
}

function ring(view) {
  const n = view.members.length;
  const crowded = n > 5;
  const at = view.members.map((_, i) => {
    const angle = (2 * Math.PI * i) / n - Math.PI / 2;
    return n > 1 ? [(crowded ? 150 : 125) * Math.cos(angle), (crowded ? 100 : 92) * Math.sin(angle)] : [0, 0];
  });
  const parts = lines(view, at);
  const short = names(view.members, crowded ? 12 : 20);
  view.members.forEach((one, i) => {
    const [x, y] = at[i];
    const leads = one.id === view.leader;
    const kind = "node" + (one.status ? "" : " gone") + (leads ? " leads" : "");
    const group = svg("g", {});
    group.append(svg("title", {}, one.address + ", " + one.role + ", " + state(one)));
    if (one.role === "standby") group.append(svg("rect", { class: kind, x: x - 16, y: y - 16, width: 32, height: 32 }));
    else if (one.role === "spare") group.append(svg("path", { class: kind, d: `M${x} ${y - 20}l20 34h-40Z` }));
    else group.append(svg("circle", { class: kind, cx: x, cy: y, r: 18 }));
    if (leads) group.append(svg("circle", { class: "inner", cx: x, cy: y, r: 13.5 }));
    group.append(svg("text", { class: "number", x, y }, i + 1));
    const below = y > -20 || n === 1; // words of the upper ones stand above, clear of the links
    const lag = one.behind && one.status ? ", " + count(one.behind) + " behind" : "";
    let word = leads ? "★ leads" : (one.status ? "" : "✕ ") + state(one) + (crowded ? "" : lag);
    if (crowded && word === STATES.follower) word = ""; // as most do
    group.append(svg("text", { x, y: below ? y + 33 : word ? y - 41 : y - 27 }, short[i]));
    group.append(svg("text", { class: "word" + (one.status ? "" : " gone"), x, y: below ? y + 47 : y - 27 }, word));
    parts.push(group);
  });
  $("ring").replaceChildren(...parts);
  const told = view.members.map((one, i) => `${i + 1}, ${one.address}, ${one.role}, ${state(one)}`).join("; ");
  $("ring").setAttribute("aria-label", "Members in a ring: " + told);
}

// ---- graphs -----------------------------------------------------------------------------------------------------------

const series = { rate: [], time: [], high: [], lag: [] };
const turns = []; // when another leader came

function add(name, t, value) {
  const points = series[name];
  points.push([t, value]);
  while (points.length && points[0][0] < t - SPAN - 2 * PERIOD) points.shift();
}

// A round number above all values, which stays when these change a little.
function ceiling(value, least) {
  let step = least;
  for (let i = 0; step < value; i++) step *= [2, 2.5, 2][i % 3];
  return step;
}

function path(points, now, most) {
  let d = "";
  let pen = "M";
  for (const [t, value] of points) {
    if (value === null) pen = "M";
    else {
      d += `${pen}${(600 * (1 - (now - t) / SPAN)).toFixed(1)} ${(98 - (94 * value) / most).toFixed(1)}`;
      if (pen === "M") d += "h.1"; // a value without neighbours is a dot
      pen = "L";
    }
  }
  return d;
}

function graph(id, curves, now, least, format) {
  const values = curves.flatMap(([name]) => series[name].map((one) => one[1] || 0));
  const most = ceiling(Math.max(0, ...values), least);
  const parts = [svg("path", { class: "top", d: "M0 4H600" })];
  for (const t of turns) {
    const x = 600 * (1 - (now - t) / SPAN);
    if (x >= 0) parts.push(svg("path", { class: "change", d: `M${x} 0V100` }));
  }
  for (const [name, kind] of curves) parts.push(svg("path", { class: "curve " + kind, d: path(series[name], now, most) }));
  $(id + "-curve").replaceChildren(...parts);
  put($(id + "-most"), format(most));
  const last = series[curves[0][0]].at(-1);
  const text = last && last[1] !== null ? format(last[1]) : "–";
  put($(id), text);
  $(id + "-curve").setAttribute("aria-label", `now ${text}, at most ${format(Math.max(0, ...values))} in two minutes`);
}

// The time that a share of what was counted since `before` has taken at most; null for nothing counted.
function quantile(before, after, bounds, share) {
  const counts = after.map((n, i) => n - (before[i] || 0));
  const total = counts.reduce((a, b) => a + b, 0);
  if (total <= 0 || counts.some((n) => n < 0)) return null;
  let left = share * total;
  for (let i = 0; i < counts.length; i++) {
    if (left <= counts[i]) {
      const low = i ? bounds[i - 1] : 0;
      const high = i < bounds.length ? bounds[i] : bounds[bounds.length - 1];
      return low + ((high - low) * left) / counts[i];
    }
    left -= counts[i];
  }
  return bounds[bounds.length - 1];
}

let counted = null; // what the leader had counted at the last view

function graphs(view, leader) {
  const now = performance.now();
  const s = leader && leader.status;
  const told = s && s.commit_counts.length ? "commit" : "write";
  const next = s && { id: leader.id, t: now, commit: s.commit, told, counts: s[told + "_counts"] };
  const same = next && counted && counted.id === next.id && counted.told === told && next.commit >= counted.commit;
  const known = same && now - counted.t < 5 * PERIOD;
  add("rate", now, known ? (1000 * (next.commit - counted.commit)) / (now - counted.t) : null);
  for (const [name, share] of [["time", 0.5], ["high", 0.99]])
    add(name, now, known ? quantile(counted.counts, next.counts, view.bounds, share) : null);
  const lags = view.members.filter((one) => one.role !== "spare" && one.behind !== null).map((one) => one.behind);
  add("lag", now, leader && lags.length ? Math.max(...lags) : null);
  counted = next || null;
  put($("time-title"), told === "commit" || !s ? "Time of a commit" : "Time of a write at the leader");
  while (turns.length && turns[0] < now - SPAN) turns.shift();
  graph("rate", [["rate", ""]], now, 10, count);
  graph("time", [["time", "time"], ["high", "time high"]], now, 0.001, duration);
  graph("lag", [["lag", ""]], now, 10, count);
}

// ---- the table --------------------------------------------------------------------------------------------------------

const CHANGES = [
  ["transfer", "Lead", "Have %s lead?", "It takes over as soon as it has all entries; calls wait meanwhile.", "Have it lead"],
  ["promote", "Promote", "Have %s vote?", "It stands by instead if there are as many voters as there should be.", "Promote it"],
  ["demote", "Demote", "Take the vote from %s?", "It keeps a copy and stands by until it is promoted.", "Demote it"],
  ["remove", "Remove", "Remove %s for good?", "It comes back only as a new member, in an empty directory.", "Remove it"],
];

function fits(change, member, leads) {
  if (change === "transfer") return member.role === "voter" && !leads && !!member.status;
  if (change === "promote") return member.role !== "voter";
  return change === "remove" || member.role === "voter";
}

const COLUMNS = ["number", "who", "role", "state", "behind n", "log n", "snapshots n", "free n", "up n", "act"];
const LABELS = ["", "", "Role", "State", "Behind", "Log", "Snapshots", "Free", "Up", ""];
const rows = new Map(); // by member's id

function row(member) {
  const made = { tr: element("tr"), cells: [], buttons: new Map() };
  made.tr.setAttribute("role", "row");
  COLUMNS.forEach((kind, i) => {
    const td = element("td", kind);
    td.setAttribute("role", "cell");
    if (LABELS[i]) td.dataset.label = LABELS[i];
    made.cells.push(td);
    made.tr.append(td);
  });
  made.address = element("span");
  made.name = element("span", "name");
  made.page = element("a");
  made.page.rel = "noreferrer";
  made.page.textContent = "its own page";
  made.wrong = element("span", "wrong");
  made.cells[1].append(made.address, made.name, made.page, made.wrong);
  const buttons = element("div");
  for (const [change, label, question, meaning, yes] of CHANGES) {
    const button = element("button", "", label);
    button.type = "button";
    button.addEventListener("click", () => {
      const now = made.member;
      propose(question.replace("%s", now.address), meaning + weigh(change, now), yes, { change, member: now.id });
    });
    made.buttons.set(change, button);
    buttons.append(button);
  }
  made.cells[9].append(buttons);
  return made;
}

// What a change does to the number of voters that may fail.
function weigh(change, member) {
  if (!["demote", "remove"].includes(change) || member.role !== "voter" || !shown) return "";
  const voters = shown.members.filter((one) => one.role === "voter").length - 1;
  if (voters < 1) return "";
  const may = Math.ceil(voters / 2) - 1;
  return ` ${voters} ${voters === 1 ? "voter is" : "voters are"} left, of which ${may || "none"} may fail.`;
}

function page(member) {
  try {
    const url = new URL(member.status.page);
    return ["http:", "https:"].includes(url.protocol) ? url.href : "";
  } catch {
    return "";
  }
}

function table(view) {
  view.members.forEach((one, i) => {
    let known = rows.get(one.id);
    if (!known) rows.set(one.id, (known = row(one)));
    known.member = one;
    const s = one.status || {};
    const leads = one.id === view.leader;
    put(known.address, one.address);
    const here = one.id === view.here ? "this page is from here" : "";
    put(known.name, [one.name, s.machine, s.version && "pyraft " + s.version, here].filter(Boolean).join(" · "));
    const link = one.status && !here ? page(one) : "";
    known.page.hidden = !link;
    if (link && known.page.href !== link) known.page.href = link;
    put(known.wrong, remarks(one));
    const texts = [i + 1, null, one.role, (leads ? "★ " : one.status ? "" : "✕ ") + state(one)];
    texts.push(one.behind === null ? "–" : count(one.behind), size(s.segment_bytes), size(s.snapshot_bytes));
    texts.push(size(s.free), span(s.up_seconds));
    texts.forEach((text, j) => text !== null && put(known.cells[j], String(text)));
    known.tr.className = leads ? "leads" : one.status ? "" : "gone";
    for (const [change, button] of known.buttons) {
      button.disabled = !fits(change, one, leads) && document.activeElement !== button;
      button.setAttribute("aria-label", button.textContent + " " + one.address);
    }
    known.cells[9].hidden = !view.changes.length;
    if ($("members").children[i] !== known.tr) $("members").insertBefore(known.tr, $("members").children[i] || null);
  });
  const there = new Set(view.members.map((one) => one.id));
  for (const [id, known] of rows)
    if (!there.has(id)) {
      known.tr.remove();
      rows.delete(id);
    }
  document.querySelector("th.act").hidden = $("add").hidden = !view.changes.length;
  put($("why"), view.why ? "No buttons here: " + view.why + "." : "");
}

function conditions(view) {
  const list = $("conditions");
  view.conditions.forEach((one, i) => {
    let line = list.children[i];
    if (!line) {
      line = element("li");
      line.append(element("span", "mark"), element("span"), element("span"));
      list.append(line);
    }
    line.className = one.ok ? "" : "bad";
    put(line.children[0], one.ok ? "✓" : "✕");
    line.children[0].setAttribute("aria-label", one.ok ? "holds" : "does not hold");
    line.children[0].setAttribute("role", "img");
    put(line.children[1], one.name);
    put(line.children[2], one.text);
  });
  while (list.children.length > view.conditions.length) list.lastChild.remove();
}

// ---- events -----------------------------------------------------------------------------------------------------------

function note(mark, text) {
  const line = element("li", mark === "✕" ? "bad" : "");
  line.append(element("time", "", clock(new Date())), element("span", "", mark), element("span", "", text));
  line.children[1].setAttribute("aria-hidden", "true");
  $("events").prepend(line);
  while ($("events").children.length > EVENTS) $("events").lastChild.remove();
}

function compare(before, view) {
  const known = new Map(before.members.map((one) => [one.id, one]));
  if (before.leader !== view.leader) {
    turns.push(performance.now());
    const leader = view.members.find((one) => one.id === view.leader);
    if (leader) note("★", `${leader.address} leads in term ${leader.status.term}`);
    else note("✕", "nobody leads");
  } else if (view.leader) {
    const [old, now] = [before, view].map((one) => one.members.find((other) => other.id === view.leader));
    if (old.status && old.status.term !== now.status.term) {
      turns.push(performance.now());
      note("★", `${now.address} leads on, in term ${now.status.term}`);
    }
  }
  for (const one of view.members) {
    const old = known.get(one.id);
    known.delete(one.id);
    if (!old) note("+", `${one.address} is a member, ${one.role}`);
    else {
      if (!old.status !== !one.status) note(one.status ? "✓" : "✕", one.address + (one.status ? " answers again" : " does not answer"));
      if (old.role !== one.role) note("±", `${one.address} is a ${one.role} now`);
      if (one.status && remarks(one) && remarks(old) !== remarks(one)) note("✕", `${one.address}: ${remarks(one)}`);
    }
  }
  for (const old of known.values()) note("−", `${old.address} is not a member any more`);
}

// ---- all of it --------------------------------------------------------------------------------------------------------

let shown = null; // the last view

function headline(view, leader) {
  const lost = view.members.filter((one) => !one.status).length;
  const wrong = view.conditions.filter((one) => !one.ok && one.name !== "leader");
  const condition = (name) => (view.conditions.find((one) => one.name === name) || { text: "" }).text;
  put($("cluster"), view.cluster ? "Cluster " + view.cluster : "A cluster of servers of the C-style API");
  put($("summary"), leader ? `${leader.address} leads in term ${leader.status.term}` : "Nobody leads");
  $("summary").classList.toggle("bad", !leader);
  const all = view.members.length;
  const answer = lost ? `${lost} of ${all} do not answer` : all === 1 ? "The only member answers" : `All ${all} members answer`;
  const told = condition("leader").split("; ").slice(leader ? 9 : 1); // those that some take for it
  put($("detail"), [answer, condition("quorum"), ...told].join(" · "));
  document.title = (leader && !wrong.length ? "✓ " : "✕ ") + $("summary").textContent + " – pyraft";
}

function draw(view) {
  const leader = view.members.find((one) => one.id === view.leader && one.status);
  if (!leader) view.leader = null;
  $("main").hidden = false;
  $("gate").hidden = true;
  $("forget").hidden = !sessionStorage.getItem(TOKEN);
  headline(view, leader);
  if (shown) compare(shown, view);
  shown = view;
  view.seen = Date.now();
  ring(view);
  graphs(view, leader);
  table(view);
  conditions(view);
  put($("source"), `Told by ${location.host} at ${clock(new Date())}, each second while this tab is seen.`);
  const old = view.page !== VERSION;
  notice(old ? "This server has another version of this page by now." : "", [], old);
}

function notice(text, pages, reload) {
  $("notice").hidden = !text;
  put($("notice-text"), text);
  $("notice-pages").hidden = !pages.length;
  $("reload").hidden = !reload;
  const links = pages.map(([name, href]) => {
    const link = element("a", "", name);
    link.href = href;
    link.rel = "noreferrer";
    return link;
  });
  if (!pages.length || $("notice-pages").dataset.of !== String(pages)) {
    $("notice-pages").dataset.of = String(pages);
    $("notice-pages").replaceChildren(...(pages.length ? ["Others show the cluster too: "] : []), ...links.flatMap((one) => [one, " "]));
  }
}

function failed(error) {
  if (error instanceof Refusal && error.status === 401) {
    $("main").hidden = true;
    $("gate").hidden = false;
    $("token-form").hidden = error.message.includes("certificate");
    const given = sessionStorage.getItem(TOKEN);
    put($("gate-text"), given || !$("token-form").hidden ? (given ? "It says: " + error.message + "." : "") : "A certificate is needed: give one to the browser, and load this page again.");
    put($("summary"), $("token-form").hidden ? "A certificate is needed" : "The token is needed");
    put($("detail"), "");
    notice("", [], false);
    return;
  }
  const pages = shown ? shown.members.filter((one) => one.id !== shown.here && one.status && page(one)).map((one) => [one.address, page(one)]) : [];
  const since = shown ? " What you see is from " + clock(new Date(shown.seen)) + "." : "";
  const why = error instanceof Refusal ? `${location.host} says: ${error.message}.` : `${location.host}: ${error.message}.`;
  if (!shown) {
    put($("summary"), error instanceof Refusal ? "No member answers" : "This server does not answer");
    $("summary").classList.add("bad");
  }
  notice(`${why}${since} It is asked again and again.`, pages, false);
}

// ---- changes ----------------------------------------------------------------------------------------------------------

let wanted = null; // the change that is to be confirmed

function propose(question, meaning, yes, change) {
  wanted = change;
  put($("ask-title"), question);
  put($("ask-text"), meaning);
  put($("ask-result"), "");
  put($("yes"), yes);
  $("yes").classList.toggle("harsh", change.change === "remove");
  $("ask-add").hidden = change.change !== "add";
  $("yes").disabled = false;
  put($("no"), "No, leave it");
  $("ask").showModal();
  (change.change === "add" ? $("add-id") : $("no")).focus();
}

$("add").addEventListener("click", () => {
  const via = (shown.members.find((one) => one.id === shown.leader) || shown.members[0]).address;
  propose("Add a member?", "", "Add it", { change: "add" });
  const command = `pyraft join DIRECTORY --address HOST:PORT --via ${via}`;
  $("ask-text").replaceChildren("A node adds itself, on its own machine: ", element("code", "", command), ". A server that has an id already is added here, as a spare:");
});

$("ask-form").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const change = { ...wanted };
  const question = $("ask-title").textContent.replace(/\?$/, "");
  if (change.change === "add") {
    change.member = $("add-id").value.trim();
    change.address = $("add-address").value.trim();
  }
  $("yes").disabled = true;
  put($("ask-result"), "");
  put($("no"), "Close");
  $("no").focus();
  try {
    await ask("change", change);
    note("✓", change.change === "add" ? `${change.address} is added` : question + ": done");
    $("ask").close();
  } catch (error) {
    const certain = error instanceof Refusal && error.status < 500;
    const why = (certain ? "It was not done: " : "Nobody knows whether it was done: ") + error.message + ".";
    note("✕", question + ": " + why);
    put($("ask-result"), why + (certain ? "" : " To ask for it again does no harm."));
    $("yes").disabled = false;
  }
  poll();
});

$("no").addEventListener("click", () => $("ask").close());
$("reload").addEventListener("click", () => location.reload());
$("forget").addEventListener("click", () => {
  sessionStorage.removeItem(TOKEN);
  poll();
});
$("token-form").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  sessionStorage.setItem(TOKEN, $("token").value.trim());
  $("token").value = "";
  poll();
});
document.addEventListener("visibilitychange", poll);
poll();
