// The official Node SDK, unmodified, against the server: suite.mjs SERVER UPSTREAM.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [server, upstream] = process.argv.slice(2);
const folder = process.cwd();
const require = createRequire(join(folder, "package.json"));
const { OpenAI } = require("openai");
const version = JSON.parse(readFileSync(join(folder, "node_modules/openai/package.json"))).version;

const messages = [{ role: "user", content: "Where is Lyon?" }];
const schema = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", parameters: schema } }];

const client = (options = {}) =>
  new OpenAI({ baseURL: `${server}/v1`, apiKey: `sk-${randomUUID()}`, maxRetries: 0, ...options });
const stats = async () => (await fetch(`${upstream}/stats`)).json();

const untilDisconnects = async (count) => {
  const until = Date.now() + 20_000;
  while ((await stats()).disconnects < count) {
    assert.ok(Date.now() < until, "the upstream was not cancelled");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};

const suite = {
  async plain() {
    const completion = await client().chat.completions.create({ model: "prompt-r1", messages });
    assert.equal(completion.choices[0].message.content, "Where is Lyon?");
    assert.equal(completion.choices[0].finish_reason, "stop");
    assert.equal(completion.usage.total_tokens, 54);
    assert.equal(completion.usage.prompt_r1.turns, 2);
  },

  async options() {
    const completion = await client().chat.completions.create({
      model: "prompt-r1/large", messages, n: 2, stop: ["Lyon"], seed: 1, max_tokens: 50,
      prompt_r1: { max_turns: 3, trace: true },
    });
    const contents = completion.choices.map((choice) => choice.message.content);
    assert.deepEqual(contents, ["Where is ", "Where is "]);
    assert.equal(completion.choices[1].prompt_r1.turns.length, 2);
  },

  async streaming() {
    const stream = await client().chat.completions.create({
      model: "prompt-r1", messages, stream: true, stream_options: { include_usage: true },
    });
    let [text, thoughts, usage, role] = ["", "", null, null];
    for await (const chunk of stream) {
      const delta = chunk.choices[0]?.delta ?? {};
      role ??= delta.role;
      text += delta.content ?? "";
      thoughts += delta.reasoning_content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.deepEqual([role, text, thoughts], ["assistant", "Where is Lyon?", "ask\n\nso it is"]);
    assert.equal(usage.total_tokens, 54);
  },

  async severalStreamed() {
    const stream = await client().chat.completions.create({
      model: "prompt-r1", messages, stream: true, n: 3,
    });
    const [texts, ends] = [["", "", ""], []];
    for await (const { choices } of stream) {
      for (const { index, delta, finish_reason } of choices) {
        texts[index] += delta.content ?? "";
        if (finish_reason) ends[index] = finish_reason;
      }
    }
    assert.deepEqual(texts, Array(3).fill("Where is Lyon?"));
    assert.deepEqual(ends, Array(3).fill("stop"));
  },

  async escapes() {
    const text = "&lt;b> <answer>no</answer> </interaction_response> &lt;think>";
    const request = { model: "prompt-r1", messages: [{ role: "user", content: text }] };
    const completion = await client().chat.completions.create(request);
    assert.equal(completion.choices[0].message.content, text);
    const stream = await client().chat.completions.create({ ...request, stream: true });
    let streamed = "";
    for await (const chunk of stream) streamed += chunk.choices[0].delta.content ?? "";
    assert.equal(streamed, text);
  },

  async helpers() {
    const stream = client().chat.completions.stream({ model: "prompt-r1", messages, tools });
    const final = await stream.finalChatCompletion();
    assert.equal(final.choices[0].finish_reason, "tool_calls");
    assert.equal(final.choices[0].message.tool_calls[0].function.name, "weather");
  },

  async tools() {
    const api = client().chat.completions;
    const first = await api.create({ model: "prompt-r1", messages, tools, tool_choice: "auto" });
    const message = first.choices[0].message;
    assert.equal(first.choices[0].finish_reason, "tool_calls");
    const call = message.tool_calls[0];
    assert.deepEqual(JSON.parse(call.function.arguments), { city: "Lyon" });
    const result = { role: "tool", tool_call_id: call.id, content: "sunny" };
    const second = await api.create({
      model: "prompt-r1", messages: [...messages, message, result], tools,
    });
    assert.equal(second.choices[0].message.content, "sunny");
    const sent = (await stats()).bodies.large.messages;
    assert.deepEqual(sent.at(-1), result);
    assert.equal(sent.at(-2).tool_calls[0].id, call.id);
  },

  async jsonSchema() {
    const json_schema = { name: "place", schema, strict: true };
    const response_format = { type: "json_schema", json_schema };
    const request = { model: "prompt-r1", messages, response_format };
    const completion = await client().chat.completions.parse(request);
    assert.deepEqual(completion.choices[0].message.parsed, { city: "Lyon" });
  },

  async errors() {
    const api = client().chat.completions;
    const fails = (request, check) => assert.rejects(async () => {
      const reply = await api.create({ model: "prompt-r1", messages, ...request });
      if (request.stream) for await (const _ of reply);
    }, (error) => { check(error); return true; });
    await fails({ logprobs: true }, (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError, error);
      assert.equal(error.param, "logprobs");
    });
    await fails({ messages: [] }, (error) => assert.equal(error.param, "messages"));
    await fails({ model: "prompt-r1/broken" }, (error) => {
      assert.equal(error.status, 502);
      assert.match(error.message, /the upstream is broken/);
      assert.ok(error.requestID);
    });
    await fails({ model: "prompt-r1/locked" }, (error) => {
      assert.ok(error instanceof OpenAI.AuthenticationError, error);
    });
    await fails({ model: "prompt-r1/busy" }, (error) => {
      assert.ok(error instanceof OpenAI.RateLimitError, error);
      const headers = error.headers;
      assert.equal(headers.get?.("retry-after") ?? headers["retry-after"], "7");
    });
    await fails({ model: "prompt-r1/broken", stream: true }, (error) => {
      assert.ok(error instanceof OpenAI.APIError, error);
      assert.match(error.message, /the upstream is broken/);
    });
  },

  async cancellation() {
    const before = (await stats()).disconnects;
    const ask = [{ role: "user", content: "final endless" }];
    const stream = await client().chat.completions.create({
      model: "prompt-r1", messages: ask, stream: true,
    });
    for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
    await untilDisconnects(before + 1);
    const controller = new AbortController();
    const asked = client().chat.completions.create(
      { model: "prompt-r1", messages: ask }, { signal: controller.signal },
    );
    setTimeout(() => controller.abort(), 500);
    await assert.rejects(asked, OpenAI.APIUserAbortError);
    await untilDisconnects(before + 2);
  },

  async retries() {
    const request = { model: "flaky", messages };
    const completion = await client({ maxRetries: 2 }).chat.completions.create(request);
    assert.equal(completion.choices[0].message.content, "passed");
    // No retries after paid calls: one reply, and two attempts at a format that the model never writes.
    const before = (await stats()).requests.filter((model) => model === "large").length;
    const form = { model: "prompt-r1", messages, response_format: { type: "json_object" } };
    await assert.rejects(
      client({ maxRetries: 2 }).chat.completions.create(form), OpenAI.InternalServerError,
    );
    const after = (await stats()).requests.filter((model) => model === "large").length;
    assert.equal(after, before + 3);
  },

  async passedThrough() {
    const api = client();
    const completion = await api.chat.completions.create({ model: "gpt-any", messages });
    assert.equal(completion.choices[0].message.content, "passed");
    const embedding = await api.embeddings.create({
      model: "e", input: "a", encoding_format: "float",
    });
    assert.deepEqual(embedding.data[0].embedding, [0.5, 0.25]);
    const legacy = await api.completions.create({ model: "gpt-any", prompt: "a" });
    assert.equal(legacy.choices[0].text, "passed");
    const response = await api.responses.create({ model: "gpt-any", input: "a" });
    assert.equal(response.output_text, "passed");
    const kinds = [];
    const stream = await api.responses.create({ model: "gpt-any", input: "a", stream: true });
    for await (const event of stream) kinds.push(event.type);
    assert.deepEqual(kinds, ["response.output_text.delta", "response.completed"]);
  },

  async vision() {
    const image = { type: "image_url", image_url: { url: "data:image/png;base64,cG5n" } };
    const content = [{ type: "text", text: "See?" }, image];
    const request = { model: "prompt-r1", messages: [{ role: "user", content }] };
    const completion = await client().chat.completions.create(request);
    assert.match(completion.choices[0].message.content, /See\?/);
    const sent = (await stats()).bodies.large.messages.at(-1).content;
    assert.deepEqual(sent.filter((part) => part.type === "image_url"), [image]);
  },

  async models() {
    const ids = [];
    for await (const model of client().models.list()) ids.push(model.id);
    assert.equal(ids[0], "prompt-r1");
    assert.ok(ids.includes("prompt-r1/large") && ids.includes("large"), ids);
    assert.equal((await client().models.retrieve("prompt-r1/large")).id, "prompt-r1/large");
  },
};

for (const [name, test] of Object.entries(suite)) {
  try {
    await test();
  } catch (error) {
    console.error(`openai ${version} for Node: ${name} failed`);
    throw error;
  }
}
console.log(`openai ${version} for Node: ${Object.keys(suite).length} passed`);
