// An evaluation of a run: how its held-out tasks went, and its sample episodes.
import { Text, h } from "./dom.js";
import { turn } from "./records.js";
import { Turn } from "./turn.js";

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function results({ all, classes = {}, failed = 0 }) {
  const row = (name, { tasks, exact, reward, turns }) => h("tr", {}, h("th", { scope: "row" }, h("bdi", {}, name)),
    h("td", {}, tasks), h("td", {}, percent(exact / Math.max(tasks, 1))), h("td", {}, reward.toFixed(3)), h("td", {}, turns.toFixed(2)));
  const head = ["Class", "Tasks", "Exact match", "Reward", "Turns"].map((name) => h("th", { scope: "col" }, name));
  const rows = [...Object.entries(classes), ["all", all]].map(([name, result]) => row(name, result));
  const note = failed ? [h("p", { class: "note" }, `${failed} episodes failed for no fault of the policy’s; they are not counted.`)] : [];
  return [h("div", { class: "wide" }, h("table", {}, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows))), ...note];
}

function episode({ task, trajectory, reward }) {
  const question = new Text("Question");
  question.append(task.question);
  const inside = h("div", { class: "why" }, question.element, h("p", { class: "note" }, "Right: ", h("bdi", {}, task.golds.join(" / "))));
  const details = h("details", {}, h("summary", {}, `reward ${reward.toFixed(2)}: `, h("bdi", {}, task.question.slice(0, 120))), inside);
  details.addEventListener("toggle", () => {
    for (const [index, each] of trajectory.turns.entries()) {
      const shown = new Turn(index);
      shown.finish(turn(each), [], null);
      inside.append(shown.element);
    }
  }, { once: true });
  return details;
}

// The evaluation of a run as an article; `null` where it was not evaluated after that step.
export function sample(run, evaluation) {
  const element = h("article", { "aria-label": run }, h("h3", {}, h("bdi", {}, run)));
  if (!evaluation) element.append(h("p", { class: "note" }, "This run was not evaluated after that step."));
  else element.append(...results(evaluation), ...(evaluation.shown ?? []).map(episode));
  return element;
}
