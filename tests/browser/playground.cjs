// The checks of playground.sh, which see.
"use strict";
const assert = require("node:assert/strict");
const { execFileSync, spawn } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const upstream = require("./upstream.cjs");

const [binary, screenshot] = process.argv.slice(2);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "playground-"));
// Serves the page's files from this folder instead: to try changes without a build.
const files = process.env.PLAYGROUND_FILES;
const QUESTION = "What is Grania's president's birthplace's country's language?";
const LONG = 60_000;

// Starts a server; gives its address and its process.
function serve(config) {
  const name = path.join(folder, `${Math.random()}.toml`);
  fs.writeFileSync(name, `schema_version = 1\n${config}`);
  const child = spawn(binary, ["serve", "--config", name, "--listen", "127.0.0.1:0"], { stdio: ["ignore", "ignore", "pipe"] });
  children.push(child);
  return new Promise((done, fail) => {
    let log = "";
    child.stderr.on("data", (data) => {
      log += data;
      const url = log.match(/listening on (http:\/\/127\.0\.0\.1:\d+)/)?.[1];
      if (url) done({ url, child, name });
    });
    child.on("exit", () => fail(new Error(`the server ended:\n${log}`)));
  });
}

const children = [];
const checks = [];
const check = (name, body) => checks.push([name, body]);

// A page in a browser of its own; whatever it complains about or fetches from elsewhere fails.
async function open(browser, url, { width = 1280, scheme = "light", complains = false } = {}) {
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: scheme });
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const page = await context.newPage();
  page.setDefaultTimeout(LONG);
  page.wrong = [];
  if (complains) {
    await page.goto(url);
    return page;
  }
  page.on("pageerror", (error) => page.wrong.push(String(error)));
  page.on("console", (message) => {
    const isExpected = /status of 4\d\d|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION/.test(message.text());
    if (message.type() === "error" && !isExpected) page.wrong.push(message.text());
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(new URL(url).origin)) page.wrong.push(`fetched ${request.url()}`);
  });
  if (files) {
    await page.route((asked) => asked.pathname === "/" || asked.pathname.startsWith("/playground/"), async (route) => {
      const name = new URL(route.request().url()).pathname.replace("/playground/", "").replace(/^\/$/, "page.html");
      await route.fulfill({ response: await route.fetch(), body: fs.readFileSync(path.join(files, name)) });
    });
  }
  await page.goto(url);
  return page;
}

async function ask(page, question) {
  await page.fill("#question", question);
  await page.click("#go");
}

// What `look` finds, as soon as it finds something.
async function until(look) {
  for (let tries = 0; tries < 200; tries += 1) {
    const found = look();
    if (found) return found;
    await new Promise((next) => setTimeout(next, 50));
  }
  throw new Error(`waited in vain for ${look}`);
}

const done = (page, count = 1) => page.waitForFunction(
  (count) => document.querySelectorAll('article[aria-busy="false"]').length === count, count);
const text = (page, selector) => page.locator(selector).first().textContent();
const fits = async (page) => {
  const [wide, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(wide <= window, `the page is ${wide} wide in a window of ${window}`);
};

async function accessible(page) {
  // Evaluated by the debugger: the page's own policy forbids it, as it should.
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).slice(0, 3).join(" ")}`);
  assert.deepEqual(found, []);
}

check("a question is answered turn by turn, and explained", async ({ open, bundled }) => {
  const page = await open(bundled.url);
  await page.evaluate(() => {
    window.shifts = 0;
    new PerformanceObserver((list) => list.getEntries().forEach((entry) => {
      if (!entry.hadRecentInput) window.shifts += entry.value;
    })).observe({ type: "layout-shift", buffered: true });
  });
  const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime);
  console.log(`   first paint: ${Math.round(paint)} ms`);
  await page.fill("#question", QUESTION);
  await page.press("#question", "Control+Enter");
  await done(page);
  assert.ok(await page.locator(".turn").count() > 2);
  assert.match(await text(page, "#status"), /The policy was done/);
  for (const lane of ["think", "prompt", "reply"]) assert.ok((await text(page, `.lane.${lane} .text`)).trim());
  const answer = await text(page, ".lane.answer .text");
  assert.match(await text(page, ".turn .facts"), /policy \d+ ms, \d+ tokens?, cost 0.*large model \d+ ms, \d+ tokens, cost 0/);
  assert.ok(await page.evaluate(() => window.shifts) < 0.1, "nothing jumps");
  await page.locator(".turn summary").first().click();
  await page.locator(".turn .t[title]").nth(5).waitFor();
  for (const [name, program, ...rest] of [["curl", "bash", "-c"], ["Python", "python3", "-c"], ["Node", "node", "--input-type=module", "-e"]]) {
    await page.getByRole("button", { name: `Copy as ${name}` }).click();
    await page.waitForFunction((name) => document.getElementById("status").textContent === `Copied as ${name}.`, name);
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    const said = execFileSync(program, [...rest, copied], { encoding: "utf8" });
    assert.ok(said.includes(answer), `${name}: ${said}`);
  }
  await page.getByRole("button", { name: "Replay with the same seed" }).click();
  await page.waitForFunction(() => document.getElementById("status").textContent.includes("replay took the same course"));
  return page;
});

check("a turn is edited, and the episode goes on from there", async ({ open, bundled }) => {
  const page = await open(bundled.url);
  await ask(page, QUESTION);
  await done(page);
  const second = page.locator(".turn").nth(1);
  await second.getByRole("button", { name: "Edit and go on from here" }).click();
  await second.getByLabel("Reply", { exact: true }).fill("");
  await second.getByRole("button", { name: "Go on", exact: true }).click();
  await page.waitForFunction(() => document.querySelector(".turn h3")?.textContent === "Turn 1 (given)");
  assert.deepEqual(await page.locator(".turn h3").allTextContents().then((all) => all.slice(0, 3)), ["Turn 1 (given)", "Turn 2 (given)", "Turn 3"]);
  assert.ok((await text(page, ".lane.answer .text")).trim());
  return page;
});

check("the large model alone stands beside it", async ({ open, bundled }) => {
  for (const width of [1280, 360]) {
    for (const scheme of ["light", "dark"]) {
      const page = await open(bundled.url, { width, scheme });
      await page.check("#compare");
      await ask(page, QUESTION);
      await done(page, 2);
      const titles = await page.locator("article h2").allTextContents();
      assert.match(titles[0], /^Through the policy: prompt-r1-atlas, atlas/);
      assert.match(titles[1], /^The large model alone: direct, atlas/);
      assert.equal(await page.locator("article .answer:not([hidden])").count(), 2);
      for (const why of await page.locator(".turn summary").all()) await why.click();
      await page.locator("#settings summary").click();
      await page.getByRole("button", { name: "Add an earlier message" }).click();
      await fits(page);
      await accessible(page);
      if (screenshot && width === 1280 && scheme === "light") {
        for (const why of (await page.locator(".turn summary").all()).slice(1)) await why.click();
        await page.locator("#settings summary").click();
        await page.getByRole("button", { name: "Remove" }).click();
        await page.setViewportSize({ width, height: 1000 });
        await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
        await page.screenshot({ path: screenshot });
      }
      await page.close();
    }
  }
});

check("the address keeps the settings and nothing else", async ({ open, bundled }) => {
  const page = await open(`${bundled.url}/?max_turns=1&temperature=0`);
  assert.equal(await page.inputValue("#max_turns"), "1");
  await page.fill("#key", "pr1-secret");
  await page.check("#compare");
  await ask(page, QUESTION);
  await done(page, 2);
  assert.match(await text(page, "article .end"), /All turns were used/);
  const url = new URL(page.url());
  assert.deepEqual(Object.fromEntries(url.searchParams), { max_turns: "1", temperature: "0", compare: "1" });
  const stored = await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie]);
  assert.deepEqual(stored, [0, 0, ""]);
  return page;
});

check("recorded episodes are listed and opened", async ({ open, bundled }) => {
  const page = await open(bundled.url);
  await ask(page, QUESTION);
  await done(page);
  const answer = await text(page, ".lane.answer .text");
  const turns = await page.locator(".turn").count();
  const file = await until(() => fs.readdirSync(bundled.records).find((name) => fs.readFileSync(path.join(bundled.records, name), "utf8").endsWith("\n")));
  await page.reload();
  await page.locator("#recorded summary").click();
  await page.setInputFiles("#recorded_file", path.join(bundled.records, file));
  await page.fill("#recorded_text", "no such text");
  assert.equal(await page.locator("#recorded_list li").count(), 0);
  await page.fill("#recorded_text", "grania");
  await page.selectOption("#recorded_reason", "answered");
  await accessible(page);
  await page.locator("#recorded_list button").first().click();
  assert.equal(await text(page, ".lane.answer .text"), answer);
  assert.equal(await page.locator(".turn").count(), turns);
  await page.locator(".turn summary").first().click();
  await page.locator(".turn .t[title]").nth(5).waitFor();
  await page.getByRole("button", { name: "Replay with the same seed" }).click();
  await page.waitForFunction(() => document.getElementById("status").textContent.includes("replay took the same course"));
  return page;
});

check("links from elsewhere lead to it, and frames do not", async ({ open, bundled, endpoint }) => {
  const elsewhere = endpoint.url.replace("127.0.0.1", "localhost");
  const page = await open(elsewhere, { complains: true });
  await page.setContent(`<a href="${bundled.url}/">there</a><iframe src="${bundled.url}/"></iframe>`);
  const frame = page.frames().at(-1);
  await frame.waitForLoadState();
  assert.equal(await frame.locator("#question").count(), 0);
  await page.click("a");
  await page.locator("#question").waitFor();
  return page;
});

check("it works by keyboard alone", async ({ open, bundled }) => {
  const page = await open(bundled.url);
  const focused = () => page.evaluate(() => document.activeElement.id);
  const tabTo = async (id) => {
    for (let press = 0; press < 30; press += 1) {
      if (await focused() === id) return;
      await page.keyboard.press("Tab");
    }
    assert.fail(`#${id} is not reached by Tab`);
  };
  await tabTo("question");
  await page.keyboard.type(QUESTION);
  await tabTo("go");
  await page.keyboard.press("Enter");
  await done(page);
  assert.match(await text(page, "#status"), /The policy was done/);
  return page;
});

check("what a large model writes is shown, and does nothing", async ({ open, hostile }) => {
  const page = await open(hostile.url);
  await ask(page, "hostile");
  await done(page);
  const shown = await text(page, ".lane.answer .text");
  assert.equal(shown, upstream.HOSTILE);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.equal(await page.locator("article img, article script, article svg, article b:not(.facts b)").count(), 0);
  assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector(".text")).unicodeBidi), "isolate");
  return page;
});

check("a megabyte on a line leaves the page as it is", async ({ open, hostile }) => {
  for (const width of [1280, 360]) {
    const page = await open(hostile.url, { width });
    await ask(page, "megabyte");
    await done(page);
    await fits(page);
    const more = page.locator(".lane.answer").getByRole("button", { name: /Show [\d,]+ more characters/ });
    await more.click();
    assert.equal((await text(page, ".lane.answer .text")).length, upstream.MEGABYTE.length);
    await fits(page);
    await page.close();
  }
});

check("ten thousand tokens stream", async ({ open, hostile }) => {
  const page = await open(hostile.url);
  await page.evaluate(() => {
    window.longest = 0;
    let last = performance.now();
    const frame = (now) => { window.longest = Math.max(window.longest, now - last); last = now; requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
  });
  await ask(page, "many");
  await done(page);
  await page.locator(".lane.answer button").click();
  const words = (await page.locator(".lane.answer .text").innerText()).split(/\s+/).filter(Boolean);
  assert.equal(words.length, upstream.WORDS.length);
  console.log(`   longest time between two frames: ${Math.round(await page.evaluate(() => window.longest))} ms`);
  return page;
});

check("it can be stopped at any time", async ({ open, hostile, endpoint }) => {
  const page = await open(hostile.url);
  await ask(page, "slow");
  await page.waitForFunction(() => document.querySelector(".lane.answer .text")?.textContent.length > 10);
  await page.click("#stop");
  await done(page);
  assert.match(await text(page, "#status"), /Stopped by you/);
  assert.ok(await page.isDisabled("#stop"));
  // The large model is told, too.
  await until(() => endpoint.state.open === 0);
  return page;
});

check("keys: one is missing, wrong, right, over its limit", async ({ open, locked }) => {
  const page = await open(locked.url);
  const says = async (pattern) => {
    await ask(page, "plain");
    await done(page);
    assert.match(await text(page, "article .end"), pattern);
  };
  await says(/Enter a valid key under “API key”/);
  await page.fill("#key", "prompt-r1-wrong");
  await says(/Enter a valid key under “API key”/);
  await page.fill("#key", "schlüssel – falsch");
  await says(/Enter (it again|a valid key)/);
  await page.fill("#key", locked.key);
  await says(/The answer is the large model’s own/);
  await says(/./);
  await says(/limit|Wait/i);
  await accessible(page);
  assert.ok(!page.url().includes(locked.key));
  return page;
});

check("a server that ends in mid-stream", async ({ open, doomed }) => {
  const page = await open(doomed.url);
  await ask(page, "slow");
  await page.waitForFunction(() => document.querySelector(".lane.answer .text")?.textContent.length > 10);
  doomed.child.kill("SIGKILL");
  await done(page);
  assert.match(await text(page, "#status"), /Check that the server runs and ask again|ask again/);
  await ask(page, "plain");
  await page.waitForFunction(() => document.getElementById("status").textContent.includes("cannot be reached"));
  return page;
});

async function main() {
  const endpoint = await upstream.start();
  const large = `[policy]\nengine = "direct"\n[large_models.large]\nurl = "${endpoint.url}"\nmodel = "large"\napi_key_env = ""\nretries = { max = 0 }\n`;
  const access = `[access]\nstore = "${folder}/keys.db"\n`;
  const nowhere = `[access]\nstore = "${folder}/none.db"\n`;
  fs.writeFileSync(path.join(folder, "keys.toml"), `schema_version = 1\n${access}`);
  const key = execFileSync(binary, ["keys", "--config", path.join(folder, "keys.toml"), "create", "page", "--requests-per-minute", "3"], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  const [bundled, hostile, doomed, locked] = await Promise.all([
    serve(`${nowhere}[record]\nfolder = "${folder}/records"\n`), serve(nowhere + large), serve(nowhere + large), serve(access + large),
  ]);
  locked.key = key;
  bundled.records = `${folder}/records`;
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
  const used = { bundled, hostile, doomed, locked, endpoint };
  let failed = 0;
  for (const [name, body] of checks) {
    if (process.env.ONLY && !name.includes(process.env.ONLY)) continue;
    const pages = [];
    const opened = async (...rest) => { const page = await open(browser, ...rest); pages.push(page); return page; };
    try {
      await body({ ...used, open: opened });
      for (const page of pages) assert.deepEqual(page.wrong, []);
      console.log(`right: ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`WRONG: ${name}\n${error.stack}`);
      for (const page of pages) if (page.wrong.length) console.log(page.wrong);
    }
    for (const page of pages) await page.context().close();
  }
  await browser.close();
  return failed;
}

main().then((failed) => failed, (error) => { console.error(error); return 1; }).then((failed) => {
  for (const child of children) child.kill("SIGKILL");
  fs.rmSync(folder, { recursive: true, force: true });
  process.exit(failed ? 1 : 0);
});
