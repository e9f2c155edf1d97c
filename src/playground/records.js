// Episodes that a server wrote down (`[record]`), from a file that a person chooses: it is read
// here, and sent nowhere.
import { byId, h } from "./dom.js";
import { given } from "./turn.js";

// Records that are listed at one time, the newest first.
const LISTED = 200;

let records = [];

// What `POST /v1/solve` would have replied.
function reply(record) {
  const { ids = [], log_probs = [], action_mask = [] } = record.trajectory.trace ?? {};
  return {
    ...record,
    turns: record.trajectory.turns.map(turn),
    // Files have the ids, not the texts.
    tokens: ids.map((id, at) => ({ id, text: `${id} `, log_prob: action_mask[at] ? log_probs[at] : undefined })),
  };
}

function turn({ think, action, text, finish, is_given, tokens, cost = 0, millis, observation: seen }) {
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

// The request that would ask for the same.
function request({ question, conversation = [], policy, large_model, sampling, trajectory }) {
  const asked = conversation.length ? { messages: [...conversation, { role: "user", content: question }] } : { question };
  const { seed, temperature } = sampling;
  const turns = trajectory.turns.filter((turn) => turn.is_given).map(turn)
    .map((turn) => given(turn.think, turn.interaction_prompt, turn.interaction_response));
  // Drawn seeds have 64 bits, of which a number here has 53: such an episode cannot be replayed.
  return { ...asked, policy, large_model, temperature, ...(turns.length ? { turns } : {}), ...(Number.isSafeInteger(seed) ? { seed } : {}) };
}

// The records of a file, and how many lines are none.
async function read(file) {
  let skipped = 0;
  const lines = (await file.text()).split("\n").filter((line) => line.trim());
  const found = lines.flatMap((line) => {
    try {
      const record = JSON.parse(line);
      return [{ record, reply: reply(record), request: request(record) }];
    } catch {
      skipped += 1;
      return [];
    }
  });
  return { found: found.reverse(), skipped };
}

function list(show) {
  const wanted = byId("recorded_text").value.toLowerCase();
  const reason = byId("recorded_reason").value;
  const fits = ({ record }) => (!reason || record.finish_reason === reason) &&
    [record.question, record.answer, record.policy, record.large_model].some((text) => text.toLowerCase().includes(wanted));
  const found = records.filter(fits);
  byId("recorded_list").replaceChildren(...found.slice(0, LISTED).map((entry) => {
    const { record } = entry;
    const time = new Date(record.created * 1000).toISOString().slice(0, 16).replace("T", " ");
    const question = h("bdi", {}, record.question.slice(0, 200));
    return h("li", {}, h("button", { type: "button", class: "small", onclick: () => show(entry) },
      `${time} UTC, `, h("bdi", {}, record.policy), `, ${record.finish_reason}: `, question));
  }));
  const shown = Math.min(found.length, LISTED);
  byId("recorded_count").textContent = `${shown} of ${records.length} episodes`;
}

// Lists the episodes of a chosen file; `show` opens one.
export function look(say, show) {
  byId("recorded_file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    const { found, skipped } = await read(file);
    records = found;
    const reasons = [...new Set(records.map(({ record }) => record.finish_reason))].sort();
    byId("recorded_reason").replaceChildren(h("option", { value: "" }, "any"), ...reasons.map((name) => h("option", {}, name)));
    byId("recorded_filters").hidden = false;
    list(show);
    if (skipped) say(`${skipped} lines of the file are no episodes: choose a file that \`[record]\` wrote.`);
  });
  for (const id of ["recorded_text", "recorded_reason"]) byId(id).addEventListener("input", () => list(show));
}
