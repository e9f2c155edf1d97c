// One turn: its lanes, its usage, details, and a form to edit it.
import { Text, count, h, millis, money, newId } from "./dom.js";

const LANES = { think: "Thought", prompt: "Prompt", reply: "Reply" };
const LEVELS = [0.1, 0.3, 0.6, 0.9];
const LEVEL_NAMES = ["below 10 %", "10 to 30 %", "30 to 60 %", "60 to 90 %", "above 90 %"];

export class Turn {
  #lanes = {};

  constructor(index) {
    this.index = index;
    this.number = index + 1;
    this.title = h("h3", {}, `Turn ${this.number}`);
    this.facts = h("p", { class: "facts" });
    this.lanes = h("div", { class: "lanes" });
    this.rest = h("div", {});
    this.element = h("div", { class: "turn is-live", role: "group", "aria-label": `Turn ${this.number}` },
      this.title, this.facts, this.lanes, this.rest);
  }

  // The text of a lane, which appears with its first words.
  lane(name) {
    if (!this.#lanes[name]) {
      const text = new Text(`${LANES[name]} of turn ${this.number}`);
      this.#lanes[name] = text;
      this.lanes.append(h("div", { class: `lane ${name}` }, h("h4", {}, LANES[name]), text.element));
    }
    return this.#lanes[name];
  }

  end() {
    this.element.classList.remove("is-live");
  }

  // What the reply's trace says of the turn; `tokens` are those that it begins with and wrote. With
  // `goOn` it can be edited.
  finish(turn, tokens, goOn) {
    this.end();
    this.turn = turn;
    if (turn.is_given) this.title.append(" (given)");
    if (turn.malformed) this.lane("think").set(turn.malformed);
    else if (turn.think) this.lane("think").set(turn.think);
    if (turn.interaction_prompt) this.lane("prompt").set(turn.interaction_prompt);
    if (turn.interaction_response) this.lane("reply").set(turn.interaction_response);
    const took = (name, time, used, cost) =>
      h("span", {}, h("b", {}, name), ` ${millis(time)}, ${count(used, "token")}, cost ${money(cost)}`);
    if (turn.tokens > 0 || turn.cost > 0) this.facts.append(took("policy", turn.millis, turn.tokens, turn.cost));
    if (turn.interaction_response !== undefined && turn.large_model_tokens > 0) {
      this.facts.append(took("large model", turn.large_model_millis, turn.large_model_tokens, turn.large_model_cost));
    }
    this.rest.append(this.#why(turn, tokens));
    if (goOn && turn.interaction_prompt) this.rest.append(this.#stepIn(turn, goOn));
  }

  #why(turn, tokens) {
    const notes = [
      turn.malformed && "The policy wrote neither a prompt nor an answer; its words are shown as its thought.",
      turn.cut_off && "The turn was cut off by its token limit.",
      turn.truncated && "The policy was shown only the beginning of the reply.",
      turn.repeated && "The same prompt was sent before: the earlier reply was reused, at no cost.",
      turn.is_final_prompt && "The policy returned the large model’s reply as the answer.",
      turn.is_given && "You wrote this turn; the policy continued as if it had written it.",
    ].filter(Boolean);
    const details = h("details", {}, h("summary", {}, "Details"));
    details.addEventListener("toggle", () => {
      const inside = h("div", { class: "why" }, ...notes.map((note) => h("p", { class: "note" }, note)));
      if (turn.sent !== undefined) {
        const sent = new Text(`Message sent in turn ${this.number}`, "code");
        sent.set(turn.sent);
        inside.append(h("h4", {}, "Sent to the large model"), sent.element);
      }
      if (tokens.length === 0) {
        inside.append(h("p", { class: "note" }, "The policy’s tokens are not available: it does not run on this server, or it did not write this turn."));
      } else {
        const read = tokens.filter((token) => token.log_prob === undefined);
        const wrote = tokens.filter((token) => token.log_prob !== undefined);
        if (read.length) inside.append(...this.#ids("Read before the turn", read, plain));
        if (wrote.length) inside.append(...this.#ids("Written", wrote, coloured), legend());
      }
      details.append(inside);
      scrollable(inside);
    }, { once: true });
    return details;
  }

  #ids(name, tokens, shown) {
    const label = `${name} in turn ${this.number}`;
    const ids = whole(`${label}: token ids`, tokens.map((token) => token.id).join(" "));
    return [h("h4", {}, `${name}: ${count(tokens.length, "token")}`), shown(label, tokens), ids];
  }

  #stepIn(turn, goOn) {
    const field = (name, value, hint) => {
      const id = newId();
      return [h("label", { for: id }, name), h("textarea", { id, rows: 3, placeholder: hint }, value ?? "")];
    };
    const form = h("form", { class: "step why", hidden: true });
    const think = field("Thought", turn.think, "none");
    const prompt = field("Prompt", turn.interaction_prompt, "");
    const reply = field("Reply", turn.interaction_response, "empty: the large model is asked");
    prompt[1].required = true;
    const open = h("button", {
      type: "button", class: "small", "aria-expanded": "false",
      onclick: () => {
        form.hidden = !form.hidden;
        open.setAttribute("aria-expanded", String(!form.hidden));
        if (!form.hidden) think[1].focus();
      },
    }, "Edit and continue from here");
    form.append(...think, ...prompt, ...reply, h("div", { class: "row" }, h("button", { class: "small main" }, "Continue")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      goOn(given(think[1].value, prompt[1].value, reply[1].value));
    });
    return h("div", { class: "why" }, h("div", { class: "row" }, open), form);
  }
}

// A turn as `POST /v1/solve` takes it.
export function given(think, prompt, reply) {
  const turn = { interaction_prompt: prompt };
  if (think) turn.think = think;
  if (reply) turn.interaction_response = reply;
  return turn;
}

// Long token streams take long to lay out, so only the beginning is shown.
const MOST = 4_000;

// The text of a token; of a policy that is not served any more, its id.
const said = ({ id, text }) => text ?? `${id} `;

function whole(label, content) {
  const text = new Text(label, "code");
  text.set(content);
  return text.element;
}

const plain = (label, tokens) => whole(label, tokens.map(said).join(""));

function coloured(label, tokens) {
  const box = h("div", {});
  for (const token of tokens.slice(0, MOST)) {
    const probability = Math.exp(token.log_prob);
    const level = LEVELS.filter((least) => probability >= least).length;
    const title = `token ${token.id}, probability ${(100 * probability).toPrecision(3)} %`;
    box.append(h("span", { class: `t p${level}`, title }, said(token)));
  }
  if (tokens.length > MOST) box.append(` … and ${tokens.length - MOST} more tokens`);
  return h("div", { class: "text code", role: "group", "aria-label": label }, box);
}

function legend() {
  const entries = LEVEL_NAMES.map((name, level) => h("li", {}, h("span", { class: `t p${level}` }, name)));
  return h("ul", { class: "legend", "aria-label": "Probability of a token" }, ...entries);
}

// Boxes that scroll can be reached by keyboard.
function scrollable(element) {
  for (const box of element.querySelectorAll(".text")) {
    if (box.scrollHeight > box.clientHeight) box.tabIndex = 0;
  }
}
