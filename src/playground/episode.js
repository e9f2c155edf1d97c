// One episode: started, shown while it runs, and explained at its end.
import { solve } from "./api.js";
import { copies } from "./copies.js";
import { Text, count, h, millis, money } from "./dom.js";
import { Turn, given } from "./turn.js";

const REASONS = {
  answered: "The policy ended the episode.",
  turn_limit: "All turns were used: raise the limit for a longer episode.",
  token_limit: "The policy’s token limit was reached: raise it for a longer episode.",
  deadline: "The deadline passed: raise it for a longer episode.",
  budget: "The cost limit was reached: raise it for a longer episode.",
  malformed: "The policy wrote neither a prompt nor an answer: ask again, or try another policy or temperature.",
};
const LANES = { think: "think", interaction_prompt: "prompt", interaction_response: "reply" };

export class Episode {
  #abort = new AbortController();
  #turns = [];
  #timer = 0;

  // `tools`: the key, what to say to screen readers, and how to begin another episode in this place.
  constructor(request, tools, before = null) {
    this.request = request;
    this.tools = tools;
    this.before = before;
    this.name = request.policy === "direct" ? "The large model alone" : "Through the policy";
    this.title = h("h2", {}, this.name);
    this.facts = h("p", { class: "facts" });
    this.time = h("span", {});
    this.facts.append(this.time);
    this.turns = h("div", { class: "why" });
    this.answer = new Text(`Answer: ${this.name}`);
    this.lane = h("div", { class: "lane answer", hidden: true }, h("h3", {}, "Answer"), this.answer.element);
    this.end = h("p", { class: "end" });
    this.actions = h("div", { class: "why" });
    this.element = h("article", { "aria-label": this.name, "aria-busy": "true" },
      this.title, this.facts, this.turns, this.lane, this.end, this.actions);
  }

  stop() {
    this.#abort.abort();
  }

  // Shows an episode that was recorded, with what was asked; returns how it ended.
  show(reply) {
    this.facts.after(asked(this.request));
    const said = this.#done(reply);
    this.element.setAttribute("aria-busy", "false");
    this.#offer();
    return said;
  }

  // Runs to the end, which it returns as a sentence.
  async run() {
    const begun = performance.now();
    const tick = () => { this.time.textContent = millis(performance.now() - begun); };
    this.#timer = setInterval(tick, 100);
    let said;
    try {
      const body = { ...this.request, stream: true, trace: true, tokens: true };
      for await (const [name, data] of solve(body, this.tools.key(), this.#abort.signal)) {
        if (name === "turn") this.#turn(data.index);
        else if (name === "done") said = this.#done(data);
        else this.#text(name, data.delta);
      }
    } catch (error) {
      const isStopped = error.name === "AbortError";
      said = isStopped ? "Stopped by you. The usage until then counts." : error.message;
      this.end.textContent = said;
      this.end.classList.toggle("error", !isStopped);
    } finally {
      clearInterval(this.#timer);
      tick();
      this.#turns.at(-1)?.end();
      this.element.setAttribute("aria-busy", "false");
      this.#offer();
    }
    return said;
  }

  #turn(index) {
    this.#turns.at(-1)?.end();
    const turn = new Turn(index);
    this.#turns.push(turn);
    this.turns.append(turn.element);
  }

  #text(name, delta) {
    if (name === "answer") {
      this.lane.hidden = false;
      this.answer.append(delta);
    } else if (LANES[name]) {
      this.#turns.at(-1)?.lane(LANES[name]).append(delta);
    }
  }

  #done(reply) {
    this.lane.hidden = false;
    this.answer.set(reply.answer);
    this.title.replaceChildren(`${this.name}: `, h("bdi", {}, reply.policy), ", ", h("bdi", {}, reply.large_model));
    const { policy, large_model: large } = reply.usage;
    const used = (name, { calls, prompt_tokens, completion_tokens, cost }) => h("span", {}, h("b", {}, name),
      ` ${count(calls, "call")}, ${count(prompt_tokens, "token")} read, ${completion_tokens.toLocaleString("en")} written, cost ${money(cost)}`);
    this.facts.append(h("span", {}, h("b", {}, "cost"), ` ${money(policy.cost + large.cost)}`),
      ...(reply.policy === "direct" ? [] : [used("policy", policy)]), used("large model", large), h("span", {}, h("b", {}, "seed"), ` ${this.request.seed ?? (reply.policy === "direct" ? "none" : "too large for this page")}`));
    const tokens = perTurn(reply.turns, reply.tokens ?? []);
    for (const [index, turn] of reply.turns.entries()) {
      if (!this.#turns[index]) this.#turn(index);
      this.#turns[index].finish(turn, tokens[index], (edited) => this.#goOn(reply.turns, index, edited));
    }
    const whose = reply.answer_source === "policy" ? "The policy wrote the answer." : "The large model wrote the answer.";
    const reason = REASONS[reply.finish_reason] ?? reply.finish_reason;
    this.course = JSON.stringify([reply.answer, reply.turns.map((turn) => [turn.think, turn.interaction_prompt, turn.interaction_response, turn.malformed])]);
    const sameness = this.before === this.course ? "The replay was identical."
      : "The replay differs: a model did not give the same reply again.";
    const again = this.before ? ` ${sameness}` : "";
    const isAlone = reply.policy === "direct" && reply.finish_reason === "answered";
    const cut = reply.cut_off ? " It is incomplete: it was cut off." : "";
    const said = `${isAlone ? "" : `${reason} `}${whose}${cut}${again}`;
    this.end.textContent = said;
    return said;
  }

  // Continues after the turns before `index` and the edited one.
  #goOn(turns, index, edited) {
    const kept = turns.slice(0, index).map((turn) =>
      given(turn.think, turn.interaction_prompt, turn.interaction_response));
    this.tools.again(this, { ...this.request, turns: [...kept, edited] }, null);
  }

  #offer() {
    const replay = h("button", {
      type: "button", class: "small", onclick: () => this.tools.again(this, this.request, this.course ?? null),
    }, "Replay with the same seed");
    const [buttons, code] = copies({ ...this.request, trace: true }, Boolean(this.tools.key()), this.tools.say);
    if (this.request.seed !== undefined) buttons.prepend(replay);
    this.actions.append(buttons, code);
  }
}

// What a request asks, for those who did not ask it themselves.
function asked({ question, messages = [{ role: "user", content: question }] }) {
  const parts = (content) => (Array.isArray(content) ? content.map((part) => part.text ?? `[${part.type}]`).join("\n") : content ?? "");
  // A conversation may continue after its question, as with the result of a tool.
  const asking = messages.findLastIndex(({ role }) => role === "user");
  const place = asking < 0 ? messages.length - 1 : asking;
  return h("div", { class: "lanes" }, ...messages.map(({ role, content }, at) => {
    const text = new Text(`Message ${at + 1} of the ${role}`);
    text.set(parts(content));
    return h("div", { class: "lane" }, h("h3", {}, at === place ? "Question" : h("bdi", {}, role)), text.element);
  }));
}

// The tokens of each turn: those that it begins with, then those that the policy sampled in it.
function perTurn(turns, tokens) {
  let at = 0;
  return turns.map((turn) => {
    const begin = at;
    if (turn.is_given) return [];
    while (at < tokens.length && tokens[at].log_prob === undefined) at += 1;
    at += turn.tokens;
    return tokens.slice(begin, at);
  });
}
