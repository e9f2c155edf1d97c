// Sample episodes of a run: of an evaluation, with how its held-out tasks went, and of a step.
import { Text, h } from "./dom.js";
import { turn } from "./records.js";
import { Turn } from "./turn.js";

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function results({ all, classes = {}, failed = 0 }) {
  const row = (name, { tasks, exact, reward, turns }) => h("tr", {}, h("th", { scope: "row" }, h("bdi", {}, name)),
    h("td", {}, tasks), h("td", {}, percent(exact / Math.max(tasks, 1))), h("td", {}, reward.toFixed(3)), h("td", {}, turns.toFixed(2)));
  const head = ["Class", "Tasks", "Exact match", "Reward", "Turns"].map((name) => h("th", { scope: "col" }, name));
  const rows = [...Object.entries(classes), ["all", all]].map(([name, result]) => row(name, result));
  const note = failed ? [h("p", { class: "note" }, `${failed} episodes failed through no fault of the policy; they are not counted.`)] : [];
  return [h("div", { class: "wide" }, h("table", {}, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows))), ...note];
}

function episode({ task, trajectory, reward, advantage }) {
  const question = new Text("Question");
  question.set(task.question);
  const inside = h("div", { class: "why" }, question.element, h("p", { class: "note" }, "Gold: ", h("bdi", {}, task.golds.join(" / "))));
  const learnt = advantage == null ? "" : `, advantage ${advantage.toFixed(2)}`;
  const details = h("details", {}, h("summary", {}, `reward ${reward.toFixed(2)}${learnt}: `, h("bdi", {}, task.question.slice(0, 120))), inside);
  details.addEventListener("toggle", () => {
    for (const [index, each] of trajectory.turns.entries()) {
      const shown = new Turn(index);
      shown.finish(turn(each), [], null);
      inside.append(shown.element);
    }
  }, { once: true });
  return details;
}

const article = (run, ...children) => h("article", { "aria-label": run }, h("h3", {}, h("bdi", {}, run)), ...children);
const note = (text) => h("p", { class: "note" }, text);

// The evaluation of a run as an article; `null` where it was not evaluated after that step.
export function evaluated(run, evaluation) {
  if (!evaluation) return article(run, note("This run was not evaluated after that step."));
  return article(run, ...results(evaluation), ...(evaluation.shown ?? []).map(episode));
}

// Episodes of a step as an article; `null` where none are kept.
export function learnt(run, step) {
  if (!step) return article(run, note("No episodes of that step were kept."));
  return article(run, ...step.shown.map(episode));
}
