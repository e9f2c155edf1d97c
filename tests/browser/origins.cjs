// The checks of origins.sh. Every name but `localhost` resolves to this machine here, so that pages
// have real origins, and can have a name of their own for the server.
"use strict";
const assert = require("node:assert/strict");
const { spawn } = require("node:child_process");
const fs = require("node:fs");
const http = require("node:http");
const os = require("node:os");
const path = require("node:path");
const { chromium } = require("playwright-core");

const [binary] = process.argv.slice(2);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "origins-"));
const children = [];
// What reached the endpoint, by method and path.
const arrived = [];

const listen = (server) => new Promise((done) => {
  server.listen(0, "127.0.0.1", () => done(server.address().port));
});

// An endpoint that lets any page read its replies, as vLLM does, and counts what comes in.
function endpoint() {
  return http.createServer((request, response) => {
    arrived.push(`${request.method} ${request.url}`);
    const reply = { id: "c", object: "chat.completion", created: 1, model: "m", choices: [{ index: 0, message: { role: "assistant", content: "secret" }, finish_reason: "stop" }], data: [] };
    request.resume().on("end", () => {
      response.writeHead(200, { "content-type": "application/json", "access-control-allow-origin": "*", "clear-site-data": "\"*\"" });
      response.end(JSON.stringify(reply));
    });
  });
}

function serve(url, origins) {
  const name = path.join(folder, `${children.length}.toml`);
  fs.writeFileSync(name, `[access]\nstore = "${folder}/none.db"\n[server]\nallowed_origins = ${JSON.stringify(origins)}\n` +
    `[large_models.large]\nurl = "${url}"\nmodel = "large"\napi_key_env = ""\nretries = { max = 0 }\n`);
  const child = spawn(binary, ["serve", "--config", name, "--listen", "127.0.0.1:0"], { stdio: ["ignore", "ignore", "pipe"] });
  children.push(child);
  return new Promise((done, fail) => {
    let log = "";
    child.stderr.on("data", (data) => {
      log += data;
      const port = log.match(/listening on http:\/\/127\.0\.0\.1:(\d+)/)?.[1];
      if (port) done(port);
    });
    child.on("exit", () => fail(new Error(`the server ended:\n${log}`)));
  });
}

// The result of a page's request: status and text, or that the page may not read them.
const fetched = (page, url, options = {}) => page.evaluate(async ([url, options]) => {
  try {
    const response = await fetch(url, options);
    const text = await response.text();
    return { type: response.type, status: response.status, text, id: response.headers.get("x-request-id") };
  } catch (error) {
    return { type: "refused", text: String(error) };
  }
}, [url, options]);

const CHAT = JSON.stringify({ model: "large", messages: [{ role: "user", content: "q" }] });
const JSON_TYPE = { "content-type": "application/json" };
// Every way in which a page can send a request.
const WAYS = {
  "as JSON": { method: "POST", headers: JSON_TYPE, body: CHAT },
  "as text": { method: "POST", headers: { "content-type": "text/plain" }, body: CHAT },
  "as a form": { method: "POST", headers: { "content-type": "application/x-www-form-urlencoded" }, body: CHAT },
  "without reading the reply": { method: "POST", mode: "no-cors", body: CHAT },
  "without a type": { method: "POST", mode: "no-cors", body: CHAT, headers: {} },
  "by name of a key": { method: "POST", headers: { ...JSON_TYPE, authorization: "Bearer x" }, body: CHAT },
};

async function checks() {
  const url = `http://127.0.0.1:${await listen(endpoint())}/v1`;
  const pages = await listen(http.createServer((_, response) => {
    response.writeHead(200, { "content-type": "text/html" });
    response.end("<!doctype html><title>a page</title>");
  }));
  const friend = `http://friend.test:${pages}`;
  const [closed, open] = [await serve(url, []), await serve(url, [friend])];
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--host-resolver-rules=MAP *.test 127.0.0.1"],
  });
  const page = async (at) => {
    const page = await (await browser.newContext()).newPage();
    await page.goto(at);
    return page;
  };

  // A page of a foreign origin.
  const foreign = await page(`http://evil.test:${pages}/`);
  for (const server of [closed, open]) {
    for (const host of ["127.0.0.1", "localhost", "rebound.test"]) {
      for (const [way, options] of Object.entries(WAYS)) {
        for (const route of ["chat/completions", "solve"]) {
          const { type, text } = await fetched(foreign, `http://${host}:${server}/v1/${route}`, options);
          const isHidden = type === "refused" || (type === "opaque" && text === "");
          assert.ok(isHidden, `${way} of ${host}: ${type} ${text}`);
        }
      }
      const { type } = await fetched(foreign, `http://${host}:${server}/v1/models`);
      assert.equal(type, "refused");
    }
  }
  assert.deepEqual(arrived, [], "a foreign page has caused a call");
  console.log("right: a page of a foreign origin reads nothing and causes no call");

  // A form that submits itself: a request without fetch.
  const posting = await page(`http://evil.test:${pages}/`);
  await Promise.all([
    posting.waitForNavigation(),
    posting.evaluate(([action, body]) => {
      const form = Object.assign(document.createElement("form"), { method: "POST", action, enctype: "text/plain" });
      form.append(Object.assign(document.createElement("input"), { name: body.slice(0, -1), value: "" }));
      document.body.append(form);
      form.submit();
    }, [`http://127.0.0.1:${closed}/v1/chat/completions`, CHAT]),
  ]);
  assert.match(await posting.textContent("body"), /origin_not_allowed|unsupported/);
  assert.deepEqual(arrived, []);
  console.log("right: a form of a foreign page is refused");

  // A page whose own name resolves to this machine, so that the server is of its origin.
  const rebound = await page(`http://rebound.test:${closed}/livez`);
  for (const [way, options] of Object.entries(WAYS)) {
    const { status, text } = await fetched(rebound, "/v1/chat/completions", options);
    assert.equal(status, 403, `${way}: ${text}`);
    assert.match(text, /host_not_allowed/);
  }
  for (const route of ["/v1/models", "/metrics", "/docs", "/"]) {
    assert.equal((await fetched(rebound, route)).status, 403, route);
  }
  assert.deepEqual(arrived, []);
  console.log("right: a rebound name gets nothing");

  // A page of an allowed origin.
  const named = await page(`${friend}/`);
  const { type, status, text, id } = await fetched(named, `http://127.0.0.1:${open}/v1/chat/completions`, WAYS["as JSON"]);
  assert.deepEqual([type, status], ["cors", 200], text);
  assert.match(text, /secret/);
  assert.ok(id, "the page sees its headers");
  const refused = await fetched(named, `http://127.0.0.1:${closed}/v1/chat/completions`, WAYS["as JSON"]);
  assert.equal(refused.type, "refused");
  assert.deepEqual(arrived, ["POST /v1/chat/completions"]);
  console.log("right: a page that the operator names is served");
  await browser.close();
}

checks().then(() => 0, (error) => { console.error(error); return 1; }).then((code) => {
  for (const child of children) child.kill("SIGKILL");
  fs.rmSync(folder, { recursive: true, force: true });
  process.exit(code);
});
