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
    // Lines of other files, and a file that is gone.
    fs.writeFileSync(`${copy}.other`, '{"trajectory": {"turns": []}, "sampling": {}}\n');
    await page.setInputFiles("#recorded_file", `${copy}.other`);
    await page.waitForFunction(() => document.getElementById("recorded_count").textContent === "0 shown, no more");
    await page.evaluate(() => { const { text } = File.prototype; File.prototype.text = async () => { File.prototype.text = text; throw new Error("gone"); }; });
    await page.setInputFiles("#recorded_file", []);
    await page.setInputFiles("#recorded_file", copy);
    await page.waitForFunction(() => document.getElementById("status").textContent.includes("copy.jsonl cannot be read"));
    await page.setInputFiles("#recorded_file", []);
    await page.setInputFiles("#recorded_file", copy);
    await page.waitForFunction(() => document.querySelectorAll("#recorded_list li").length > 0);
    await page.fill("#recorded_text", "no such text");
    await listed(page, 0);
    await page.fill("#recorded_text", "grania");
    await page.waitForFunction(() => document.querySelectorAll("#recorded_list li").length > 0);
    await opens(page, answer, turns);
    return page;
  });

  check("long lists and texts are read from their beginning, in this place's time", async ({ open, bundled }) => {
    const page = await open(bundled.url, { timezone: "Asia/Tokyo" });
    await page.locator("#recorded summary").click();
    const turn = { text: "", think: "line\n".repeat(5000), action: { kind: "answer", text: "yes" }, finish: "stop", tokens: 60_000, millis: 1 };
    const record = {
      created: 1767225600, question: "Why?", answer: "line\n".repeat(200), policy: "p", large_model: "m", finish_reason: "answered", answer_source: "policy",
      sampling: { seed: 1, temperature: 0 },
      usage: { policy: { calls: 1, prompt_tokens: 1, completion_tokens: 1, cost: 0 }, large_model: { calls: 0, prompt_tokens: 0, completion_tokens: 0, cost: 0 } },
      trajectory: { turns: [turn], trace: { ids: Array(60_000).fill(7), log_probs: Array(60_000).fill(0), action_mask: Array(60_000).fill(false) } },
    };
    const file = path.join(bundled.records, "../long.jsonl");
    fs.writeFileSync(file, `${JSON.stringify(record)}\n`.repeat(60));
    await page.setInputFiles("#recorded_file", file);
    await listed(page, 50);
    // 9 hours after midnight in London, as the fields of the filters take it.
    assert.match(await text(page, "#recorded_list button"), /^2026-01-01 09:00 \S+, p, answered: Why\?$/);
    await page.locator("#recorded_more").press("Enter");
    await listed(page, 60);
    // The button is gone; the keyboard goes on at what it brought.
    assert.ok(await page.locator("#recorded_list li").nth(50).locator("button").evaluate((button) => button === document.activeElement));
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => { const box = document.querySelector(".lane.answer .text"); return box && box.scrollHeight > box.clientHeight; });
    assert.equal(await page.locator(".lane.answer .text").evaluate((box) => box.scrollTop), 0);
    // All that the policy read can be seen, if asked for.
    await page.locator(".turn summary").click();
    const why = page.locator(".turn details");
    await why.getByRole("button", { name: /more characters/ }).first().waitFor();
    for (const more of await why.getByRole("button", { name: /more characters/ }).all()) if (await more.isVisible()) await more.press("Enter");
    await until(async () => (await why.locator(".text").first().textContent()).length === 120_000);
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
