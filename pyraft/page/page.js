// The page of a cluster: asks this node for all members every second, and draws what it says. Nothing from elsewhere.
"use strict";

const PERIOD = 1000;
const KEPT = 120;
const $ = (id) => document.getElementById(id);
let before = null;
let last = null;
const rates = [];
const behinds = [];

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function size(n) {
  if (n === undefined || n < 0) return "–";
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (n < 1024 || unit === "GiB") return (unit === "B" ? n : n.toFixed(1)) + " " + unit;
    n /= 1024;
  }
}

async function ask(path, options) {
  const headers = { "Content-Type": "application/json" };
  const token = sessionStorage.getItem("pyraft-token");
  if (token) headers.Authorization = "Bearer " + token;
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error || response.statusText);
  return answer;
}

function event(text) {
  const line = document.createElement("li");
  line.textContent = new Date().toLocaleTimeString() + "  " + text;
  $("events").prepend(line);
  while ($("events").children.length > 200) $("events").lastChild.remove();
}

function summary(text, bad) {
  if ($("summary").textContent !== text) $("summary").textContent = text;
  $("summary").classList.toggle("bad", bad);
}

function state(member) {
  return member.status ? member.status.state : "no answer";
}

function remarks(member) {
  const s = member.status;
  if (!s) return member.problem;
  const found = [];
  if (s.cause) found.push("it has stopped: " + s.cause);
  if (s.disk) found.push("disk: " + s.disk);
  if (s.recovering) found.push("no part in elections: " + s.recovering);
  if (s.snapshot_problem) found.push("snapshots: " + s.snapshot_problem);
  if (s.stuck) found.push("refuses entry " + s.stuck);
  return found.join("; ");
}

function ring(cluster) {
  const parts = [];
  const n = cluster.members.length;
  const at = cluster.members.map((_, i) => {
    const angle = (2 * Math.PI * i) / n - Math.PI / 2;
    return [n > 1 ? 100 * Math.cos(angle) : 0, n > 1 ? 75 * Math.sin(angle) : 0];
  });
  const leader = cluster.members.findIndex((one) => one.id === cluster.leader);
  cluster.members.forEach((one, i) => {
    if (leader < 0 || i === leader) return;
    const gone = one.status ? "" : " gone";
    parts.push(svg("line", { class: "link" + gone, x1: at[leader][0], y1: at[leader][1], x2: at[i][0], y2: at[i][1] }));
  });
  cluster.members.forEach((one, i) => {
    const [x, y] = at[i];
    const kind = "node" + (one.status ? "" : " gone") + (i === leader ? " leads" : "");
    if (one.role === "standby") parts.push(svg("rect", { class: kind, x: x - 16, y: y - 16, width: 32, height: 32 }));
    else if (one.role === "spare")
      parts.push(svg("path", { class: kind, d: `M${x} ${y - 18}L${x + 18} ${y + 14}H${x - 18}Z` }));
    else parts.push(svg("circle", { class: kind, cx: x, cy: y, r: 18 }));
    if (i === leader) parts.push(svg("circle", { class: "inner", cx: x, cy: y, r: 12 }));
    parts.push(svg("text", { x, y: y + 32 }, one.address));
    const lag = one.behind ? ", " + one.behind + " behind" : "";
    parts.push(svg("text", { x, y: y + 45 }, (i === leader ? "leads" : state(one)) + lag));
  });
  $("ring").replaceChildren(...parts);
}

function curve(id, values) {
  const most = Math.max(1, ...values);
  const points = values.map((v, i) => `${(300 * (i + KEPT - values.length)) / (KEPT - 1)},${75 - (70 * v) / most}`);
  $(id).replaceChildren(
    svg("line", { class: "base", x1: 0, y1: 75, x2: 300, y2: 75 }),
    svg("polyline", { class: "curve", points: points.join(" ") })
  );
}

function cell(row, text, name) {
  const made = document.createElement("td");
  made.textContent = text;
  if (name) made.className = name;
  row.append(made);
  return made;
}

const CHANGES = [
  ["transfer", "Lead", "Have %s lead?"],
  ["promote", "Promote", "Have %s vote, if there is room for another voter?"],
  ["demote", "Demote", "Take the vote from %s, so that it stands by?"],
  ["remove", "Remove", "Remove %s from the cluster for good?"],
];

function table(cluster) {
  const body = $("members");
  for (const one of cluster.members) {
    let row = body.querySelector(`tr[data-id="${one.id}"]`);
    if (!row) {
      row = document.createElement("tr");
      row.dataset.id = one.id;
      for (let i = 0; i < 8; i++) cell(row, "");
      row.children[7].className = "remarks";
      const last = cell(row, "");
      for (const [change, label, question] of CHANGES) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = label;
        button.setAttribute("aria-label", label + " " + one.address);
        button.addEventListener("click", () => confirmed(question.replace("%s", one.address), change, one.id));
        last.append(button);
      }
      body.append(row);
    }
    const s = one.status || {};
    const leads = one.id === cluster.leader;
    const texts = [one.address, one.role, leads ? "★ leads" : state(one), one.behind === null ? "–" : one.behind];
    texts.push(size(s.segment_bytes), size(s.snapshot_bytes), size(s.free), remarks(one));
    texts.forEach((text, i) => {
      if (row.children[i].textContent !== String(text)) row.children[i].textContent = text;
    });
  }
  const there = new Set(cluster.members.map((one) => one.id));
  for (const row of [...body.children]) if (!there.has(row.dataset.id)) row.remove();
}

function confirmed(question, change, member) {
  $("question").textContent = question;
  $("no").onclick = () => $("confirm").close();
  $("yes").onclick = async () => {
    $("confirm").close();
    try {
      await ask("change", { method: "POST", body: JSON.stringify({ change, member }) });
      event(question.replace("?", ": done"));
    } catch (error) {
      event(question.replace("?", ": refused: ") + error.message);
    }
  };
  $("confirm").showModal();
  $("no").focus();
}

function compare(cluster) {
  if (!before) return;
  const known = new Map(before.members.map((one) => [one.id, one]));
  if (before.leader !== cluster.leader) {
    const leader = cluster.members.find((one) => one.id === cluster.leader);
    event(leader ? leader.address + " leads" : "nobody leads");
  }
  for (const one of cluster.members) {
    const old = known.get(one.id);
    known.delete(one.id);
    if (!old) event(one.address + " is a member");
    else {
      if (!old.status !== !one.status) event(one.address + (one.status ? " answers" : " does not answer"));
      if (old.role !== one.role) event(one.address + " is a " + one.role);
      if (remarks(old) !== remarks(one) && one.status && remarks(one)) event(one.address + ": " + remarks(one));
    }
  }
  for (const old of known.values()) event(old.address + " is removed");
}

function draw(cluster) {
  const now = performance.now();
  const leader = cluster.members.find((one) => one.id === cluster.leader);
  $("title").textContent = "Cluster " + (cluster.cluster || "");
  const lost = cluster.members.filter((one) => !one.status).length;
  const text = leader ? leader.address + " leads in term " + leader.status.term : "nobody leads";
  summary(text + (lost ? ", " + lost + " of " + cluster.members.length + " do not answer" : ""), !leader || lost > 0);
  if (leader) {
    const commit = leader.status.commit;
    if (last && commit >= last.commit) {
      const rate = (1000 * (commit - last.commit)) / (now - last.now);
      rates.push(rate);
      $("rate").textContent = rate.toFixed(0);
    }
    last = { now, commit };
  }
  const lag = Math.max(0, ...cluster.members.map((one) => (one.role === "spare" ? 0 : one.behind || 0)));
  behinds.push(lag);
  $("behind").textContent = lag;
  for (const values of [rates, behinds]) if (values.length > KEPT) values.shift();
  compare(cluster);
  before = cluster;
  ring(cluster);
  table(cluster);
  curve("rates", rates);
  curve("behinds", behinds);
}

async function poll() {
  try {
    draw(await ask("cluster"));
  } catch (error) {
    summary("no answer: " + error.message, true);
  }
  setTimeout(poll, PERIOD);
}

$("token-form").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  sessionStorage.setItem("pyraft-token", $("token").value);
  $("token").value = "";
});
poll();
