// Recorded episodes: those of the server that the key may read, or those of a file that a person
// chooses, which is read here and sent nowhere.
import { episode as open, episodes as page } from "./api.js";
import { byId, h, time } from "./dom.js";
import { given } from "./turn.js";

// Pages without a hit that are skipped before a person is asked whether to look further back.
const EMPTY_PAGES = 10;
const LISTED = 50;

// A turn of a record as `POST /v1/solve` replies it.
export function turn({ think, action, text, finish, is_given, tokens, cost = 0, millis, observation: seen }) {
  const of = (...kinds) => (kinds.includes(action.kind) ? action.text : undefined);
  return {
    think, is_given, tokens, cost, millis,
    interaction_prompt: of("prompt", "final_prompt"),
    is_final_prompt: action.kind === "final_prompt",
    answer: of("answer"),
    malformed: action.kind === "nothing" ? text : undefined,
    cut_off: finish === "length",
    interaction_response: seen?.reply,
    sent: seen?.sent,
    truncated: seen?.truncated,
    repeated: seen?.repeated,
    large_model_tokens: seen ? seen.usage.prompt_tokens + seen.usage.completion_tokens : 0,
    large_model_cost: seen?.cost ?? 0,
    large_model_millis: seen?.millis ?? 0,
  };
}

// Whether the answer ended before it was complete, as far as a record tells.
function isCutOff({ answer, answer_source, finish_reason, trajectory: { turns } }) {
  if (answer_source !== "policy") return turns.some(({ observation: seen }) => seen?.cut_off && seen.reply === answer);
  const last = turns.at(-1);
  if (last?.action.kind !== "answer") return finish_reason === "deadline";
  return last.finish === "length" && !last.text.trimEnd().endsWith("</answer>");
}

// The question of a record, or its conversation.
function asked({ question, conversation = [], attachments = [], message, is_continued }) {
  if (conversation.length + attachments.length === 0 && !message) return { question };
  if (is_continued) return { messages: conversation };
  // Nulls stand for the attachments; older records do not have the message.
  const rest = [...attachments];
  const whole = (content) => (Array.isArray(content) ? content.map((part) => part ?? rest.shift()) : content);
  const plain = attachments.length ? [{ type: "text", text: question }, ...attachments] : question;
  const last = message ? { ...message, content: whole(message.content) } : { role: "user", content: plain };
  return { messages: [...conversation, last] };
}

// What the server would say of a record.
function recorded(record) {
  const { ids = [], log_probs = [], action_mask = [] } = record.trajectory.trace ?? {};
  const { policy, large_model, sampling, large_model_sampling } = record;
  const turns = record.trajectory.turns.map(turn);
  const own = turns.filter((turn) => turn.is_given)
    .map((turn) => given(turn.think, turn.interaction_prompt, turn.interaction_response));
  return {
    request: {
      ...asked(record),
      ...(own.length ? { turns: own } : {}),
      policy, large_model,
      ...(policy === "direct" ? large_model_sampling : { seed: sampling.seed, temperature: sampling.temperature }),
    },
    reply: { ...record, cut_off: isCutOff(record), turns, tokens: ids.map((id, at) => ({ id, log_prob: action_mask[at] ? log_probs[at] : undefined })) },
  };
}

// The records of a file, the newest first, and how many lines are none.
async function read(file) {
  let skipped = 0;
  const lines = (await file.text()).split("\n").filter((line) => line.trim());
  const found = lines.flatMap((line) => {
    try {
      const record = JSON.parse(line);
      if (typeof record.question !== "string" || !Number.isFinite(record.created)) throw new TypeError("no episode");
      return [{ ...record, open: recorded(record) }];
    } catch {
      skipped += 1;
      return [];
    }
  });
  return { found: found.reverse(), skipped };
}

// Seconds since 1970 of a field with a local time.
const seconds = (id) => (byId(id).value ? Math.floor(new Date(byId(id).value).getTime() / 1000) : undefined);

function filters() {
  const wanted = {
    text: byId("recorded_text").value, policy: byId("recorded_policy").value.trim(),
    large_model: byId("recorded_model").value.trim(), finish_reason: byId("recorded_reason").value,
    since: seconds("recorded_since"), until: seconds("recorded_until"),
  };
  return Object.fromEntries(Object.entries(wanted).filter(([, value]) => value));
}

// The same filters over records of a file.
function fits(record, { text, since, until, ...exact }) {
  const has = (part) => part.toLowerCase().includes(text.toLowerCase());
  return Object.entries(exact).every(([name, value]) => record[name] === value) &&
    (!text || [record.question, record.answer].some(has)) &&
    (!since || record.created >= since) && (!until || record.created < until);
}

// Lists recorded episodes; `show` opens one.
export function look(key, say, show) {
  let file = null;
  let cursor = "";
  // What is asked for now: answers to what was asked before come too late.
  let asked = 0;

  const entry = (summary) => {
    const choose = async () => {
      try {
        const { request, reply } = summary.open ?? await open(summary.id, key());
        // Drawn seeds have 64 bits, of which a number here has 53: such an episode cannot be replayed.
        const { seed, ...rest } = request;
        show({ request: Number.isSafeInteger(seed) ? request : rest, reply });
      } catch (error) {
        say(error.message);
      }
    };
    return h("li", {}, h("button", { type: "button", class: "small", onclick: choose },
      `${time(summary.created)}, `, h("bdi", {}, summary.policy), `, ${summary.finish_reason}: `, h("bdi", {}, summary.question.slice(0, 200))));
  };

  const list = async (goOn = false) => {
    asked += 1;
    const mine = asked;
    const items = byId("recorded_list");
    const wanted = filters();
    let found = [];
    let said = "";
    try {
      if (file) {
        const from = goOn ? items.children.length : 0;
        const all = file.filter((record) => fits(record, wanted));
        found = all.slice(from, from + LISTED);
        cursor = all.length > from + LISTED ? "more" : "";
      } else {
        cursor = goOn ? cursor : "";
        for (let pages = 0; pages < EMPTY_PAGES && found.length === 0; pages += 1) {
          const { data, next_cursor: next = "" } = await page({ ...wanted, limit: LISTED, ...(cursor && { cursor }) }, key());
          if (mine !== asked) return;
          [found, cursor] = [data, next];
          if (!next) break;
        }
      }
    } catch (error) {
      if (mine !== asked) return;
      // What is older can be asked for again.
      if (!goOn) cursor = "";
      said = error.message;
    }
    if (!goOn) items.replaceChildren();
    const next = found.map(entry);
    items.append(...next);
    const count = items.children.length;
    byId("recorded_count").textContent = said || `${count} shown${cursor ? ", there may be more" : ", no more"}`;
    const isFocused = document.activeElement === byId("recorded_more");
    byId("recorded_more").hidden = !cursor;
    // The button may be gone, and the next to be read is what it brought.
    if (isFocused) (next[0]?.firstChild ?? (cursor ? byId("recorded_more") : items)).focus();
  };

  let timer = 0;
  byId("recorded_filters").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(list, 250);
  });
  byId("recorded").addEventListener("toggle", () => { if (byId("recorded").open) list(); });
  byId("recorded_more").addEventListener("click", () => list(true));
  byId("key").addEventListener("change", () => { if (byId("recorded").open) list(); });
  byId("recorded_file").addEventListener("change", async (event) => {
    const [chosen] = event.target.files;
    file = null;
    if (chosen) {
      const { found, skipped } = await read(chosen).catch(() => ({ found: [] }));
      file = found;
      if (skipped === undefined) say(`${chosen.name} cannot be read: choose it again, or a shorter one.`);
      else if (skipped) say(`${skipped} lines of the file are not episodes: choose a file that \`[record]\` wrote.`);
    }
    list();
  });
}
