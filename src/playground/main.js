// The page: the form, and the episodes that it asks for.
import { choices } from "./api.js";
import { byId, h, newId } from "./dom.js";
import { Episode } from "./episode.js";
import { content, take } from "./images.js";
import { look } from "./records.js";
import { compare, keep, requests, restore } from "./settings.js";

const running = new Set();

// The policy of requests that name none, as far as is known.
let policy;

const key = () => byId("key").value.trim();
const say = (text) => { byId("status").textContent = text; };

const tools = {
  key,
  say,
  again(old, request, before) {
    old.stop();
    const episode = new Episode(request, tools, before);
    old.element.replaceWith(episode.element);
    episode.element.tabIndex = -1;
    episode.element.focus({ preventScroll: true });
    start([episode]);
  },
};

// Runs episodes side by side. Screen readers announce their begin and their end.
async function start(episodes) {
  say(episodes.length > 1 ? "Both episodes are running." : "The episode is running.");
  await Promise.all(episodes.map(async (episode) => {
    running.add(episode);
    byId("stop").disabled = false;
    const said = await episode.run();
    running.delete(episode);
    byId("stop").disabled = running.size === 0;
    // Another question may have taken its place by now.
    if (!episode.element.isConnected) return;
    say(episodes.length > 1 ? `${episode.name}: ${said}` : said);
  }));
}

function ask() {
  if (content(byId("question").value.trim()).length === 0) {
    say("Write a question first.");
    byId("question").focus();
    return;
  }
  keep();
  stop();
  const episodes = requests(asked(), policy).map((request) => new Episode(request, tools));
  byId("episodes").replaceChildren(...episodes.map((episode) => episode.element));
  start(episodes);
}

function stop() {
  for (const episode of running) episode.stop();
}

// The question, in its conversation where there is one.
function asked() {
  const question = content(byId("question").value);
  const earlier = [...document.querySelectorAll("#messages li")].map((item) => ({
    role: item.querySelector("select").value, content: item.querySelector("textarea").value,
  }));
  if (earlier.length === 0 && typeof question === "string") return { question };
  return { messages: [...earlier, { role: "user", content: question }] };
}

function addMessage() {
  const number = document.querySelectorAll("#messages li").length;
  const role = number % 2 === 0 ? "user" : "assistant";
  const roles = ["user", "assistant", "system"].map((name) => h("option", { selected: name === role }, name));
  const id = newId();
  const item = h("li", {},
    h("select", { "aria-label": "Role of the message" }, ...roles),
    h("textarea", { id, rows: 2, "aria-label": "Earlier message", required: true }),
    h("button", { type: "button", class: "small", onclick: () => { item.remove(); byId("add").focus(); } }, "Remove"));
  byId("messages").append(item);
  byId(id).focus();
}

// The models and policies to choose from: none without a valid key, which asking reports.
async function offer() {
  const { models, policies } = await choices(key()).catch(() => ({ models: [], policies: [] }));
  byId("models").replaceChildren(...models.map((value) => h("option", { value })));
  [policy] = policies;
  byId("policies").replaceChildren(...policies.map((value) => h("option", { value })));
}

take(say);
look(key, say, ({ request, reply }) => {
  stop();
  const episode = new Episode(request, tools);
  byId("episodes").replaceChildren(episode.element);
  say(episode.show(reply));
  episode.element.tabIndex = -1;
  episode.element.focus();
});
restore();
offer();
byId("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
// What is wrong in closed settings has to be seen.
byId("ask").addEventListener("invalid", (event) => event.target.closest("details")?.setAttribute("open", ""), true);
byId("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("ask").requestSubmit();
});
byId("stop").addEventListener("click", stop);
byId("add").addEventListener("click", addMessage);
byId("compare").addEventListener("change", () => { compare(); keep(); });
byId("ask").addEventListener("change", (event) => { if (event.target.id !== "key") keep(); else offer(); });
