// The checks of playground.sh; usage there.
"use strict";
const assert = require("node:assert/strict");
const { execFileSync, spawn } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { chromium } = require("playwright-core");
const upstream = require("./upstream.cjs");
const { accessible, ask, done, fits, open, text, until } = require("./page.cjs");

const [binary, screenshots] = process.argv.slice(2);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "playground-"));
const PNG = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg==", "base64");
const QUESTION = "What is Grania's president's birthplace's country's language?";

// Starts a server; gives its address and its process.
async function serve(config, listen = "127.0.0.1:0") {
  const name = path.join(folder, `${Math.random()}.toml`);
  fs.writeFileSync(name, `schema_version = 1\n${config}`);
  return { ...await run(["serve", "--config", name, "--listen", listen], /listening on (http:\S+?),?\s/), config };
}

// Runs the program; gives the address that it prints, and its process.
function run(args, says) {
  const child = spawn(binary, args, { stdio: ["ignore", "ignore", "pipe"] });
  children.push(child);
  return new Promise((done, fail) => {
    let log = "";
    child.stderr.on("data", (data) => {
      log += data;
      const url = log.match(says)?.[1];
      if (url) done({ url, child });
    });
    child.on("exit", () => fail(new Error(`the program ended:\n${log}`)));
  });
}

const children = [];
const checks = [];
const check = (name, body) => checks.push([name, body]);

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
  assert.match(await text(page, "#status"), /The policy ended the episode/);
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
  await page.waitForFunction(() => document.getElementById("status").textContent.includes("replay was identical"));
  return page;
});

check("settings that are not valid are shown, unless they count for nothing", async ({ open, hostile, endpoint }) => {
  const page = await open(`${hostile.url}/?compare=1&other_temperature=3&temperature=3`);
  await page.locator("#settings summary").click();
  await page.uncheck("#compare");
  await ask(page, "plain");
  await page.waitForFunction(() => document.getElementById("settings").open && document.activeElement.id === "temperature");
  await page.fill("#temperature", "");
  // A number that this page would round.
  await page.fill("#seed", "9007199254740993");
  await page.click("#go");
  await page.waitForFunction(() => document.activeElement.id === "seed");
  await page.fill("#seed", "9007199254740991");
  await page.click("#go");
  await done(page);
  assert.match(await text(page, "article .facts"), /seed 9007199254740991/);
  assert.equal(endpoint.state.last.seed, 9007199254740991);
  // The large model alone gets a seed only if the user sets it.
  await page.fill("#seed", "");
  await page.click("#go");
  await page.waitForFunction(() => document.querySelector("article .facts")?.textContent.includes("seed none"));
  assert.equal(endpoint.state.last.seed, undefined);
  return page;
});

check("a turn is edited, and the episode goes on from there", async ({ open, bundled }) => {
  const page = await open(bundled.url);
  await ask(page, QUESTION);
  await done(page);
  const second = page.locator(".turn").nth(1);
  await second.getByRole("button", { name: "Edit and continue from here" }).click();
  await second.getByLabel("Reply", { exact: true }).fill("");
  await second.getByRole("button", { name: "Continue", exact: true }).click();
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
      if (screenshots && width === 1280 && scheme === "light") {
        for (const why of (await page.locator(".turn summary").all()).slice(1)) await why.click();
        await page.locator("#settings summary").click();
        await page.getByRole("button", { name: "Remove" }).click();
        await page.setViewportSize({ width, height: 1000 });
        await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
        await page.screenshot({ path: path.join(screenshots, "playground.png") });
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
  assert.match(await text(page, "#status"), /The policy ended the episode/);
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
  // The large model gets it, too.
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
  await says(/The large model wrote the answer/);
  await says(/./);
  await says(/limit|Wait/i);
  await accessible(page);
  assert.ok(!page.url().includes(locked.key));
  return page;
});

check("a server that restarts in mid-stream", async ({ open, doomed }) => {
  const page = await open(doomed.url);
  await ask(page, "slow");
  await page.waitForFunction(() => document.querySelector(".lane.answer .text")?.textContent.length > 10);
  const ended = new Promise((ended) => doomed.child.once("exit", ended));
  doomed.child.kill("SIGKILL");
  await done(page);
  assert.match(await text(page, "#status"), /Check that the server runs and ask again|ask again/);
  await ask(page, "plain");
  await page.waitForFunction(() => document.getElementById("status").textContent.includes("cannot be reached"));
  await ended;
  await serve(doomed.config, new URL(doomed.url).host);
  await ask(page, "plain");
  await page.waitForFunction(() => document.querySelector(".lane.answer .text")?.textContent === "You asked: plain");
  return page;
});

check("an image and earlier turns go with the question", async ({ open, hostile, endpoint }) => {
  for (const [width, scheme] of [[1280, "light"], [360, "dark"]]) {
    const page = await open(hostile.url, { width, scheme });
    await page.getByRole("button", { name: "Add an earlier message" }).click();
    await page.locator("#messages textarea").fill("Hello?");
    await page.getByRole("button", { name: "Add an earlier message" }).click();
    await page.locator("#messages textarea").nth(1).fill("Hello.");
    await page.setInputFiles("#image", [
      { name: "dot.png", mimeType: "image/png", buffer: PNG },
      { name: "page.html", mimeType: "text/html", buffer: Buffer.from("<script>window.hacked = 1</script>") },
    ]);
    await page.waitForFunction(() => document.getElementById("status").textContent.includes("choose PNG"));
    assert.ok(await page.locator("#images img").evaluate((image) => image.complete && image.naturalWidth === 1));
    await accessible(page);
    await fits(page);
    await ask(page, "What is it?");
    await done(page);
    // Unchanged: the text, then the image.
    await until(async () => /You asked: What is it\? and an image/.test(await text(page, ".lane.answer .text")));
    const image = { type: "image_url", image_url: { url: `data:image/png;base64,${PNG.toString("base64")}` } };
    const [first, second, question] = endpoint.state.messages.slice(-3);
    assert.deepEqual([first, second], [{ role: "user", content: "Hello?" }, { role: "assistant", content: "Hello." }]);
    assert.ok(question.content.some((part) => JSON.stringify(part) === JSON.stringify(image)), JSON.stringify(question));
    await page.getByRole("button", { name: "Remove dot.png" }).click();
    await page.fill("#question", " ");
    await page.click("#go");
    assert.equal(await text(page, "#status"), "Write a question first.");
    await page.close();
  }
});

check("a long image is copied in a program, and no dropped file replaces the page", async ({ open, hostile, endpoint }) => {
  const page = await open(hostile.url);
  const buffer = Buffer.concat([PNG, Buffer.alloc(300_000)]);
  await page.setInputFiles("#image", { name: "long.png", mimeType: "image/png", buffer });
  await page.locator("#images img").waitFor();
  const isTaken = await page.evaluate(() => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File(["x"], "text.pdf", { type: "application/pdf" }));
    const drop = new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer });
    return !document.getElementById("question").dispatchEvent(drop);
  });
  assert.ok(isTaken);
  assert.match(await text(page, "#status"), /text.pdf is no image/);
  await ask(page, "What is it?");
  await done(page);
  await page.getByRole("button", { name: "Copy as curl" }).click();
  await page.waitForFunction(() => document.getElementById("status").textContent === "Copied as curl.");
  const program = path.join(folder, "copied.sh");
  fs.writeFileSync(program, await page.evaluate(() => navigator.clipboard.readText()));
  const before = endpoint.state.messages.length;
  const child = spawn("bash", [program], { stdio: "ignore" });
  children.push(child);
  // The endpoint gets the image from the program, too.
  await until(() => JSON.stringify(endpoint.state.messages.slice(before)).includes(buffer.toString("base64")));
  return page;
});

require("./records.cjs")(check);
require("./runs.cjs")(check);

async function main() {
  const endpoint = await upstream.start();
  const large = `[policy]\nengine = "direct"\n[large_models.large]\nurl = "${endpoint.url}"\nmodel = "large"\napi_key_env = ""\nretries = { max = 0 }\n`;
  const access = `[access]\nstore = "${folder}/keys.db"\n`;
  const nowhere = `[access]\nstore = "${folder}/none.db"\n`;
  fs.writeFileSync(path.join(folder, "keys.toml"), `schema_version = 1\n${access}`);
  const newKey = (name, ...limits) => execFileSync(binary, ["keys", "--config", path.join(folder, "keys.toml"), "create", name, ...limits], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
  const key = newKey("page", "--requests-per-minute", "3");
  const [bundled, hostile, doomed, locked] = await Promise.all([
    serve(`${nowhere}[record]\nfolder = "${folder}/records"\nreaders = ["*"]\n`), serve(nowhere + large), serve(nowhere + large),
    serve(`${access}${large}[record]\nsqlite = "${folder}/locked.db"\n`),
  ]);
  locked.key = key;
  locked.newKey = newKey;
  bundled.records = `${folder}/records`;
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
  const used = { bundled, hostile, doomed, locked, endpoint, run, folder, screenshots };
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
