// Unmodified SDKs for Node with default settings, against the server: frameworks.mjs SERVER.
// Each makes a plain request, a streamed one, and one with a tool call.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [server] = process.argv.slice(2);
process.env.OPENAI_BASE_URL = `${server}/v1`;
process.env.OPENAI_API_KEY = "sk-any";
process.env.ANTHROPIC_BASE_URL = server;
process.env.ANTHROPIC_API_KEY = "sk-any";
// The packages are in the working directory.
const require = createRequire(`${process.cwd()}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)));
const ask = "Where is Lyon?";
const schema = {
  type: "object", properties: { city: { type: "string" } }, required: ["city"],
};

const suite = {
  async openai() {
    const { default: OpenAI } = await load("openai");
    const api = new OpenAI({ maxRetries: 0 }).responses;
    const response = await api.create({ model: "prompt-r1", input: ask });
    assert.equal(response.output_text, ask);
    const stream = api.stream({ model: "prompt-r1", input: ask });
    let text = "";
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    assert.equal(text, ask);
    assert.equal((await stream.finalResponse()).status, "completed");
    const tools = [{ type: "function", name: "weather", parameters: schema, strict: false }];
    const first = await api.create({ model: "prompt-r1", input: ask, tools });
    const call = first.output.at(-1);
    assert.equal(call.name, "weather");
    const output = { type: "function_call_output", call_id: call.call_id, output: "sunny" };
    const input = [{ role: "user", content: ask }, ...first.output, output];
    assert.equal((await api.create({ model: "prompt-r1", input, tools })).output_text, "sunny");
  },

  async "@anthropic-ai/sdk"() {
    const { default: Anthropic } = await load("@anthropic-ai/sdk");
    const api = new Anthropic({ maxRetries: 0 }).messages;
    const messages = [{ role: "user", content: ask }];
    const request = { model: "prompt-r1", max_tokens: 100, messages };
    assert.equal((await api.create(request)).content[0].text, ask);
    const stream = api.stream({ ...request, thinking: { type: "enabled", budget_tokens: 1024 } });
    const final = await stream.finalMessage();
    assert.deepEqual(final.content.map((block) => block.type), ["thinking", "text"]);
    assert.equal(await stream.finalText(), ask);
    const tools = [{ name: "weather", input_schema: schema }];
    const first = await api.stream({ ...request, tools }).finalMessage();
    const call = first.content.at(-1);
    assert.deepEqual([first.stop_reason, call.input], ["tool_use", { city: "Lyon" }]);
    const result = { type: "tool_result", tool_use_id: call.id, content: "sunny" };
    const again = [...messages, { role: "assistant", content: first.content },
      { role: "user", content: [result] }];
    const second = await api.create({ ...request, messages: again, tools });
    assert.equal(second.content[0].text, "sunny");
    await assert.rejects(api.create({ ...request, messages: [] }), Anthropic.BadRequestError);
  },

  async ai() {
    const { generateText, streamText, tool, jsonSchema, stepCountIs } = await load("ai");
    const { openai } = await load("@ai-sdk/openai");
    const model = openai("prompt-r1");
    const said = await generateText({ model, prompt: ask, system: "Be terse." });
    assert.equal(said.text, ask);
    assert.equal(said.usage.totalTokens, 54);
    let text = "";
    for await (const part of streamText({ model, prompt: ask }).textStream) text += part;
    assert.equal(text, ask);
    const weather = tool({
      description: "The weather of a city.",
      inputSchema: jsonSchema(schema),
      execute: async ({ city }) => { assert.equal(city, "Lyon"); return "sunny"; },
    });
    const armed = { model, prompt: ask, tools: { weather }, stopWhen: stepCountIs(3) };
    assert.match((await generateText(armed)).text, /sunny/);
    text = "";
    for await (const part of streamText(armed).textStream) text += part;
    assert.match(text, /sunny/);
  },

  async "@langchain/openai"() {
    const { ChatOpenAI } = await load("@langchain/openai");
    for (const options of [{}, { useResponsesApi: true }]) {
      const model = new ChatOpenAI({ model: "prompt-r1", maxRetries: 0, ...options });
      assert.equal((await model.invoke(ask)).text, ask);
      let text = "";
      for await (const chunk of await model.stream(ask)) text += chunk.text;
      assert.equal(text, ask);
      const armed = model.bindTools([
        { type: "function", function: { name: "weather", parameters: schema } },
      ]);
      const called = await armed.invoke(ask);
      assert.deepEqual(called.tool_calls[0].args, { city: "Lyon" });
      const result = { role: "tool", content: "sunny", tool_call_id: called.tool_calls[0].id };
      const second = await armed.invoke([{ role: "user", content: ask }, called, result]);
      assert.equal(second.text, "sunny");
    }
  },
};

for (const [name, test] of Object.entries(suite)) {
  try {
    await test();
  } catch (error) {
    console.error(`${name} failed`);
    throw error;
  }
  console.log(`${name} for Node: passed`);
}
process.exit(0);
