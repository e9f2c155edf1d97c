// The page of the runs: which are chosen, their curves as they grow, and their evaluations.
import { evaluation, evaluations, metrics, runs, sample, samples } from "./api.js";
import { Chart } from "./chart.js";
import { byId, h, time } from "./dom.js";
import { evaluated, learnt } from "./samples.js";

// Between two polls, milliseconds.
const PAUSE = 2000;
// What the metrics are, in the order in which they are shown; others follow by name.
const NAMES = {
  reward: "reward", answer: "reward: answer", format: "reward: format", eval_exact: "held-out right answers",
  eval_reward: "held-out reward", eval_loss: "held-out loss", loss: "loss", kl: "KL from the initial policy, nats per token",
  approx_kl: "KL within the update", entropy: "entropy, nats", response_tokens: "sampled tokens per episode",
  turns: "turns", cut_turns: "share of cut turns", zero_variance: "share of groups without variance",
  failed_episodes: "failed episodes (outages)", eval_failed: "failed episodes of the evaluation",
  fallback_replies: "replies from a fallback", cost: "cost per step",
  clip_low: "share clipped below", clip_high: "share clipped above", gradient_norm: "gradient norm",
  learning_rate: "learning rate", rollout_logprob_diff: "log-probability difference, engine and trainer",
  tokens_per_second: "sampled tokens per second",
};

const say = (text) => { if (byId("status").textContent !== text) byId("status").textContent = text; };

// Sections with episodes of a step: the field that says which, where they go, and how they are read
// and shown. `lists` says of which steps a run has some.
const SECTIONS = [
  { field: "step", place: "samples", lists: evaluations, reads: evaluation, shows: evaluated },
  { field: "episode_step", place: "sampled", lists: samples, reads: sample, shows: learnt },
];

// A run that is followed: its rows so far, and the steps that each section has.
class Watched {
  rows = [];
  steps = SECTIONS.map(() => []);
  #next = 0;

  constructor(name) {
    this.name = name;
  }

  async read() {
    for (;;) {
      const { data, next, has_more: hasMore } = await metrics(this.name, this.#next);
      // A run that was resumed, or begun again, writes steps anew.
      const first = data[0]?.step ?? Infinity;
      if (this.rows.at(-1)?.step >= first) this.rows = this.rows.filter((row) => row.step < first);
      this.rows.push(...data);
      this.#next = next;
      if (!hasMore) break;
    }
    this.steps = await Promise.all(SECTIONS.map(({ lists }) => lists(this.name)));
  }
}

let watched = [];
let isStale = false;
let listed = [];
const charts = new Map();
// What is shown of metrics and in each section: drawn anew when it changes.
let drawn = "";
const sampled = SECTIONS.map(() => "");

const chosen = () => [...new Set([byId("run").value, byId("beside").value].filter(Boolean))];

// Keeps the selection in the URL.
function keep() {
  const kept = new URLSearchParams();
  if (byId("run").value) kept.set("run", byId("run").value);
  if (byId("beside").value) kept.set("beside", byId("beside").value);
  for (const { field } of SECTIONS) if (byId(field).value) kept.set(field, byId(field).value);
  history.replaceState(null, "", `?${kept}`);
}

// Puts options into a field. The selection stays, unless the URL or `otherwise` names another.
function fill(id, options, otherwise) {
  const field = byId(id);
  const has = (value) => options.some(([name]) => name === value);
  const value = [wish[id], otherwise, field.value].find(has);
  if (has(wish[id])) delete wish[id];
  // In another order, they are the same: a list that is open stays.
  const names = options.map(([name]) => name).sort().join("\n");
  if (field.dataset.names !== names) {
    field.dataset.names = names;
    field.replaceChildren(...options.map(([name, text]) => h("option", { value: name }, text)));
  }
  if (value !== undefined && field.value !== value) field.value = value;
}

const ago = (seconds) => {
  const passed = Math.max(0, Math.round(Date.now() / 1000 - seconds));
  return passed < 120 ? `${passed} s ago` : passed < 7200 ? `${Math.round(passed / 60)} min ago` : time(seconds);
};

const state = ({ kind, summary }) => (kind === "evaluation" ? "" : summary ? `${summary.ended}, ${summary.steps} steps` : "running or interrupted");

// The rows of the table by name: they are reused, so that a focused link keeps the focus.
const rows = new Map();

function newRow(name) {
  const cells = { kind: h("td", {}), updated: h("td", {}), state: h("td", {}), report: h("td", {}) };
  return { cells, element: h("tr", {}, h("th", { scope: "row" }, h("bdi", {}, name)), ...Object.values(cells)) };
}

function table() {
  const body = byId("all").tBodies[0];
  const sorted = [...listed].sort((a, b) => a.name.localeCompare(b.name));
  for (const [name, { element }] of rows) if (!sorted.some((run) => run.name === name)) { element.remove(); rows.delete(name); }
  for (const [index, run] of sorted.entries()) {
    if (!rows.has(run.name)) rows.set(run.name, newRow(run.name));
    const { element, cells } = rows.get(run.name);
    if (body.rows[index] !== element) body.insertBefore(element, body.rows[index] ?? null);
    cells.kind.textContent = run.kind;
    cells.updated.textContent = ago(run.updated);
    cells.state.textContent = state(run);
    if (run.has_report && !cells.report.firstChild) {
      cells.report.append(h("a", { href: `v1/runs/${encodeURIComponent(run.name)}/report`, target: "_blank", rel: "noopener", "aria-label": `Report of ${run.name}` }, "Report"));
    }
  }
}

function legend() {
  byId("legend").replaceChildren(...watched.map(({ name, rows }, run) => {
    const known = listed.find((one) => one.name === name);
    const step = rows.length ? `, step ${rows.at(-1).step}` : "";
    return h("li", {}, h("span", { class: `swatch l${run}`, "aria-hidden": "true" }), " ", h("bdi", {}, name), `${step}${known ? `, ${state(known)}, written ${ago(known.updated)}` : ""}`);
  }));
}

function curves() {
  const now = JSON.stringify(watched.map(({ name, rows }) => [name, rows.length, rows.at(-1)]));
  if (now === drawn) return;
  drawn = now;
  const names = new Set(watched.flatMap(({ rows }) => rows.flatMap((row) => Object.keys(row))));
  names.delete("step");
  const order = Object.keys(NAMES);
  const place = (name) => (order.indexOf(name) + order.length + 1) % (order.length + 1);
  const sorted = [...names].sort((a, b) => place(a) - place(b) || a.localeCompare(b));
  for (const [name, chart] of charts) if (!names.has(name)) { chart.element.remove(); charts.delete(name); }
  for (const [index, name] of sorted.entries()) {
    if (!charts.has(name)) charts.set(name, new Chart(Object.hasOwn(NAMES, name) ? NAMES[name] : name));
    const chart = charts.get(name);
    chart.draw(watched.map(({ rows }) => rows.filter((row) => Object.hasOwn(row, name)).map((row) => [row.step, row[name]])));
    if (byId("curves").children[index] !== chart.element) byId("curves").insertBefore(chart.element, byId("curves").children[index] ?? null);
  }
}

async function fillSection({ field, place, reads, shows }, section) {
  const steps = [...new Set(watched.flatMap((run) => run.steps[section]))].sort((a, b) => a - b);
  byId(`${place}_section`).hidden = steps.length === 0;
  if (steps.length === 0) return;
  // Follows the newest, unless a person has chosen another or is reading.
  const { value, selectedIndex, options } = byId(field);
  const isRead = byId(place).querySelector("details[open]");
  const follows = !value || !steps.includes(Number(value)) || (selectedIndex === options.length - 1 && !isRead);
  fill(field, steps.map((step) => [String(step), String(step)]), follows ? String(steps.at(-1)) : undefined);
  const step = Number(byId(field).value);
  const has = (run) => run.steps[section].includes(step);
  const now = JSON.stringify([step, watched.map((run) => [run.name, has(run)])]);
  if (now === sampled[section]) return;
  const of = async (run) => shows(run.name, has(run) ? await reads(run.name, step) : null);
  byId(place).replaceChildren(...await Promise.all(watched.map(of)));
  sampled[section] = now;
}

async function look() {
  listed = await runs();
  if (isStale) [watched, isStale] = [[], false];
  const training = listed.filter((run) => run.kind === "training");
  const names = training.map(({ name }) => [name, name]);
  fill("run", names);
  fill("beside", [["", "none"], ...names]);
  table();
  const wanted = chosen();
  if (wanted.join("\n") !== watched.map(({ name }) => name).join("\n")) {
    watched = wanted.map((name) => watched.find((run) => run.name === name) ?? new Watched(name));
  }
  const now = watched;
  await Promise.all(now.map((run) => run.read()));
  if (now !== watched) return;
  legend();
  curves();
  // A file that cannot be read leaves the other section as it is.
  const filled = await Promise.allSettled(SECTIONS.map(fillSection));
  const failed = filled.find(({ status }) => status === "rejected");
  if (failed) throw failed.reason;
  const missing = wish.run || wish.beside;
  if (training.length === 0) say("No training run has written metrics here yet. This page keeps checking.");
  else say(missing ? `There is no run “${missing}” yet. This page keeps checking.` : "");
}

// What the URL names is selected once it exists: a run that begins has written nothing yet.
const wish = Object.fromEntries(new URLSearchParams(location.search));

// Polls, one at a time, and not while the page is hidden. One that waits will see all there is, so
// that none pile up while the server does not answer.
let looking = Promise.resolve();
let isWaiting = false;
const again = () => {
  if (isWaiting) return;
  isWaiting = true;
  looking = looking.then(() => { isWaiting = false; return look(); }).catch((error) => say(error.message));
};

again();
byId("choose").addEventListener("submit", (event) => event.preventDefault());
for (const id of ["run", "beside", ...SECTIONS.map(({ field }) => field)]) {
  byId(id).addEventListener("change", () => { delete wish[id]; keep(); again(); });
}
setInterval(() => { if (!document.hidden) again(); }, PAUSE);
document.addEventListener("visibilitychange", () => {
  // A run may have been begun anew, and be as long again: what was read of it is read again.
  if (document.hidden) return;
  isStale = true;
  again();
});
