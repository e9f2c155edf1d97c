// Recorded episodes: from the server, from a file, and of which key.
"use strict";
const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { HOSTILE } = require("./upstream.cjs");
const { accessible, ask, done, fits, text, until } = require("./page.cjs");

const QUESTION = "What is Grania's president's birthplace's country's language?";
const listed = (page, wanted) => page.waitForFunction((wanted) => document.querySelectorAll("#recorded_list li").length === wanted, wanted);

// Opens the first of the list, and compares it with the live display.
async function opens(page, answer, turns) {
  await page.locator("#recorded_list button").first().click();
  await page.getByRole("heading", { name: "Question" }).waitFor();
  assert.equal(await text(page, ".lane.answer .text"), answer);
  assert.equal(await page.locator(".turn").count(), turns);
  assert.equal(await text(page, "article .lane .text"), QUESTION);
  await page.locator(".turn summary").first().click();
  await page.locator(".turn .t[title]").nth(5).waitFor();
  await page.getByRole("button", { name: "Replay with the same seed" }).click();
  await page.waitForFunction(() => document.getElementById("status").textContent.includes("replay was identical"));
}

module.exports = (check) => {
  check("recorded episodes of the server are listed and opened", async ({ open, bundled }) => {
    for (const [width, scheme] of [[1280, "light"], [360, "dark"]]) {
      const page = await open(`${bundled.url}/?temperature=0`, { width, scheme });
      await ask(page, QUESTION);
      await done(page);
      const answer = await text(page, ".lane.answer .text");
      const turns = await page.locator(".turn").count();
      const isWritten = () => fs.readdirSync(bundled.records).some((name) => fs.readFileSync(path.join(bundled.records, name), "utf8").endsWith("\n"));
      await until(isWritten);
      await page.reload();
      await page.locator("#recorded summary").click();
      await page.waitForFunction(() => document.querySelectorAll("#recorded_list li").length > 0);
      await page.fill("#recorded_text", "no such text");
      await listed(page, 0);
      await page.fill("#recorded_text", "gRANIA");
      await page.selectOption("#recorded_reason", "answered");
      await page.fill("#recorded_policy", "prompt-r1-atlas");
      await page.fill("#recorded_since", "2020-01-01T00:00");
      await page.waitForFunction(() => document.querySelectorAll("#recorded_list li").length > 0);
      await accessible(page);
      await fits(page);
      await opens(page, answer, turns);
      await page.fill("#recorded_since", "2100-01-01T00:00");
      await listed(page, 0);
      assert.ok(!page.url().includes("gRANIA"));
      await page.close();
    }
  });

  check("recorded episodes of a file are listed and opened", async ({ open, bundled }) => {
    const page = await open(`${bundled.url}/?temperature=0`);
    await ask(page, QUESTION);
    await done(page);
    const answer = await text(page, ".lane.answer .text");
    const turns = await page.locator(".turn").count();
    const file = await until(() => fs.readdirSync(bundled.records).find((name) => fs.readFileSync(path.join(bundled.records, name), "utf8").endsWith("\n")));
    const copy = path.join(bundled.records, "../copy.jsonl");
    fs.writeFileSync(copy, `${fs.readFileSync(path.join(bundled.records, file), "utf8")}no record\n`);
    await page.locator("#recorded summary").click();
    await page.setInputFiles("#recorded_file", copy);
    await page.waitForFunction(() => document.getElementById("status").textContent.includes("1 lines of the file are not episodes"));
    await page.fill("#recorded_text", "no such text");
    await listed(page, 0);
    await page.fill("#recorded_text", "grania");
    await page.waitForFunction(() => document.querySelectorAll("#recorded_list li").length > 0);
    await opens(page, answer, turns);
    return page;
  });

  check("where nothing is recorded, the page says so", async ({ open, hostile }) => {
    const page = await open(hostile.url);
    await page.locator("#recorded summary").click();
    await page.waitForFunction(() => document.getElementById("recorded_count").textContent.includes("episodes are not recorded here"));
    await accessible(page);
    return page;
  });

  check("a key reads its own episodes", async ({ open, locked }) => {
    const [first, second] = [locked.newKey("first"), locked.newKey("second")];
    const page = await open(locked.url);
    await page.locator("#recorded summary").click();
    await page.waitForFunction(() => document.getElementById("recorded_count").textContent.includes("Enter a valid key"));
    await page.fill("#key", first);
    await ask(page, "hostile");
    await done(page);
    const own = async (key) => (await fetch(`${locked.url}/v1/episodes`, { headers: { authorization: `Bearer ${key}` } })).json();
    await until(async () => (await own(first)).data.length === 1);
    await page.fill("#recorded_text", "host");
    await listed(page, 1);
    await page.locator("#recorded_list button").click();
    await page.waitForFunction((hostile) => document.querySelector(".lane.answer .text")?.textContent === hostile, HOSTILE);
    assert.equal(await page.evaluate(() => window.hacked), undefined);
    await page.fill("#key", second);
    await page.press("#key", "Tab");
    await listed(page, 0);
    return page;
  });
};
