// An OpenAI-compatible endpoint whose replies would break a careless page. The question says which.
"use strict";
const http = require("node:http");

const HOSTILE = "<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>" +
  "<b>bold</b> \u202Eright to left\u2066 \u0000 </textarea></div><svg onload=window.hacked=1>";
const MEGABYTE = "x".repeat(1 << 20);
const WORDS = Array.from({ length: 10_000 }, (_, index) => `w${index}${index % 20 === 19 ? "\n" : " "}`);

const state = { open: 0, messages: [], last: {}, go: new WeakMap() };

async function reply(question, send) {
  if (question.includes("hostile")) for (const part of HOSTILE.match(/[^]{1,7}/g)) await send(part);
  else if (question.includes("megabyte")) await send(MEGABYTE);
  else if (question.includes("many")) for (const word of WORDS) await send(word);
  else if (question.includes("slow")) for (;;) { await send("… "); await new Promise((done) => setTimeout(done, 20)); }
  else await send(`You asked: ${question}`);
}

function start() {
  const server = http.createServer(async (request, response) => {
    if (request.method === "GET") return void response.end('{"object": "list", "data": []}');
    let body = "";
    for await (const piece of request) body += piece;
    state.last = JSON.parse(body);
    const { messages, model } = state.last;
    state.messages.push(...messages);
    const { content } = messages.at(-1);
    const parts = Array.isArray(content) ? content : [{ text: content }];
    const question = parts.map((part) => part.text ?? "and an image").join(" ");
    response.writeHead(200, { "content-type": "text/event-stream" });
    let isGone = false;
    state.open += 1;
    const goOn = () => state.go.get(response)?.();
    response.on("drain", goOn);
    response.on("close", () => { isGone = true; state.open -= 1; goOn(); });
    const event = (delta, finish_reason = null, rest = {}) =>
      `data: ${JSON.stringify({ id: "c", object: "chat.completion.chunk", created: 1, model, choices: [{ index: 0, delta, finish_reason }], ...rest })}\n\n`;
    const send = async (content) => {
      if (isGone) throw new Error("gone");
      if (response.write(event({ content }))) return;
      await new Promise((done) => { state.go.set(response, done); });
    };
    try {
      await reply(question, send);
      response.write(event({}, "stop", { usage: { prompt_tokens: 7, completion_tokens: 5, total_tokens: 12 } }));
      response.end("data: [DONE]\n\n");
    } catch {
      response.destroy();
    }
  });
  return new Promise((done) => server.listen(0, "127.0.0.1", () => done({ server, state, url: `http://127.0.0.1:${server.address().port}/v1` })));
}

module.exports = { start, HOSTILE, MEGABYTE, WORDS };
