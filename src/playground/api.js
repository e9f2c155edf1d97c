// The public API, and what to do when it fails.

// What a person can do about a status, where the server's own message has no hint.
const ADVICE = {
  401: "Enter a valid key under “API key”.",
  403: "Use a key that may do this, or choose another model.",
  404: "Choose another policy or large model under “Settings”.",
  413: "Shorten the texts.",
  429: "Wait a little and ask again.",
  500: "Ask again; the server’s log has the reason.",
  502: "Ask again; if it fails again, check the large model’s endpoint.",
  503: "Wait until the models are loaded and ask again.",
  504: "Raise the deadline under “Settings”, or ask again.",
};

// A failure, with what to do about it.
export class ApiError extends Error {
  constructor(message, status) {
    const hasHint = message.includes("\nhint:");
    const advice = ADVICE[status];
    super(advice && (status === 401 || !hasHint) ? `${message}\n${advice}` : message);
    this.status = status;
  }
}

const headers = (key) => (key ? { authorization: `Bearer ${key}` } : {});

async function request(path, key, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, credentials: "omit", headers: { ...options.headers, ...headers(key) } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof TypeError && /header|ByteString|ISO-8859-1/i.test(error.message)) {
      throw new ApiError("the key has characters that no key has\nEnter it again under “API key”.");
    }
    throw new ApiError("the server cannot be reached\nCheck that it runs and ask again.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiError(body?.error?.message ?? `the server answered ${response.status}`, response.status);
}

// Models of the loop and policies that may be named; none where the key does not let us see them.
export async function choices(key) {
  const { data } = await get("v1/models", key);
  const own = data.filter((model) => model.id.startsWith("prompt-r1/"));
  const policies = data.find((model) => model.id === "prompt-r1")?.policies ?? [];
  return { models: own.map((model) => model.id.slice("prompt-r1/".length)), policies };
}

const get = async (path, key = "") => (await request(path, key)).json();

// A page of `GET /v1/episodes`, and one episode of it.
export const episodes = (query, key) => get(`v1/episodes?${new URLSearchParams(query)}`, key);
export const episode = (id, key) => get(`v1/episodes/${encodeURIComponent(id)}`, key);

// What the server of the runs has.
const run = (name) => `v1/runs/${encodeURIComponent(name)}`;
export const runs = async () => (await get("v1/runs")).data;
export const metrics = (name, from) => get(`${run(name)}/metrics?from=${from}`);
export const evaluations = async (name) => (await get(`${run(name)}/evaluations`)).data;
export const evaluation = (name, step) => get(`${run(name)}/evaluations/${step}`);
export const samples = async (name) => (await get(`${run(name)}/samples`)).data;
export const sample = (name, step) => get(`${run(name)}/samples/${step}`);

// Asks `POST /v1/solve`; yields its events as [name, data] until `done`.
export async function* solve(body, key, signal) {
  const response = await request("v1/solve", key, {
    method: "POST", signal, body: JSON.stringify(body), headers: { "content-type": "application/json" },
  });
  for await (const [name, data] of events(response.body)) {
    if (name === "error") throw new ApiError(data.error.message);
    yield [name, data];
    if (name === "done") return;
  }
  throw new ApiError("the stream ended before the answer\nThe server may have been restarted: ask again.");
}

// Reads server-sent events.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  // A long event arrives in many pieces: they are joined once, when it is complete.
  let pieces = [];
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new ApiError("the connection broke off\nCheck that the server runs and ask again.");
      });
      if (done) return;
      pieces.push(value);
      if (!value.includes("\n")) continue;
      const blocks = pieces.join("").split("\n\n");
      pieces = [blocks.pop()];
      for (const block of blocks) {
        let name = "message", data = "";
        for (const line of block.split("\n")) {
          if (line.startsWith("event: ")) name = line.slice(7);
          else if (line.startsWith("data: ")) data += line.slice(6);
        }
        if (data) yield [name, JSON.parse(data)];
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
