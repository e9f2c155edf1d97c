// Training runs and evaluations: watched live, compared, and opened.
"use strict";
const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { HOSTILE } = require("./upstream.cjs");
const { accessible, fits, text, until } = require("./page.cjs");

const AT = /the runs are shown at (http:\S+)\n/; // whole lines: writes come in pieces

const row = (step, reward) => JSON.stringify({
  step, reward, answer: reward * 0.8, format: 0.9, kl: 0.01 * step, entropy: 2 / (1 + step), response_tokens: 40 + step,
  turns: 2.5, failed_episodes: step % 7 === 0 ? 1 : 0, cut_turns: 0, cost: 0.001, gradient_norm: 1 / step,
}) + "\n";

const evaluation = (step, exact) => ({
  step, all: { tasks: 40, exact, reward: exact / 40, turns: 2.5 }, classes: { "2 hops": { tasks: 40, exact, reward: exact / 40, turns: 2.5 } },
  prompt_classes: {}, failed: 1,
  shown: [{
    task: { id: "t", question: `What is Grania's currency? ${HOSTILE}`, golds: ["crown", HOSTILE], source: "world" }, reward: 1,
    trajectory: { trace: { ids: [], log_probs: [], action_mask: [] }, turns: [
      { text: "", think: "ask", action: { kind: "prompt", text: "Grania's currency?" }, finish: "stop", tokens: 5, millis: 3,
        observation: { reply: HOSTILE, truncated: false, repeated: false, usage: { prompt_tokens: 4, completion_tokens: 2 }, millis: 2 } },
      { text: "", think: null, action: { kind: "answer", text: "crown" }, finish: "stop", tokens: 3, millis: 2, observation: null },
    ] },
  }],
});

// Episodes of a step of training, as a run writes them.
const sampled = (step) => ({ step, shown: evaluation(0, 0).shown.map((one) => ({ ...one, advantage: 1.5 })) });

const writeSamples = (folder, step) => {
  fs.mkdirSync(path.join(folder, "samples"), { recursive: true });
  fs.writeFileSync(path.join(folder, `samples/step-${String(step).padStart(8, "0")}.json`), JSON.stringify(sampled(step)));
};

// A folder with two runs and an evaluation.
function write(folder) {
  for (const [name, lift] of [["first", 0.2], ["second <b>", 0.3]]) {
    fs.mkdirSync(path.join(folder, name, "evaluations"), { recursive: true });
    const rows = Array.from({ length: 1200 }, (_, index) => row(index + 1, lift + 0.6 * (1 - Math.exp(-index / 300)))).join("");
    fs.writeFileSync(path.join(folder, name, "metrics.jsonl"), rows);
    for (const step of [0, 1000]) fs.writeFileSync(path.join(folder, name, `evaluations/step-${String(step).padStart(8, "0")}.json`), JSON.stringify(evaluation(step, 10 + step / 50)));
  }
  for (const step of [1199, 1200]) writeSamples(path.join(folder, "first"), step);
  fs.mkdirSync(path.join(folder, "eval"));
  fs.writeFileSync(path.join(folder, "eval/report.html"), `<!doctype html><title>report</title><p id="said"></p><script>
    const image = new Image();
    const ended = new Promise((done) => { image.onload = image.onerror = done; });
    image.src = "/v1/runs?image";
    let stored = "none";
    try { localStorage.x = 1; stored = "stored"; } catch {}
    document.title = "ran " + origin + " " + stored;
    fetch("/v1/runs").then(() => "reached", () => "refused").then(async (said) => { await ended; document.getElementById("said").textContent = said; });
  </script>`);
}

const figures = (page) => page.locator("#curves figure figcaption").allTextContents();

module.exports = (check) => {
  let served;
  // Started with the first check that needs it.
  const runs = ({ run, folder }) => {
    served ??= (async () => {
      const root = path.join(folder, "runs");
      write(root);
      return { root, url: (await run(["runs", root], AT)).url };
    })();
    return served;
  };

  check("two runs stand beside each other, and the address keeps them", async (used) => {
    const { url } = await runs(used);
    for (const width of [1280, 360]) {
      for (const scheme of ["light", "dark"]) {
        const page = await used.open(`${url}?run=first&beside=second+%3Cb%3E&step=1000`, { width, scheme });
        await page.waitForFunction(() => document.querySelectorAll("#curves .l1.line").length > 8);
        const shown = await figures(page);
        assert.match(shown[0], /^reward 0\.\d+ \| 0\.\d+$/);
        for (const part of [/^reward: answer/, /^reward: format/, /^KL from the initial policy/, /^entropy/, /^sampled tokens/, /outages/]) assert.ok(shown.some((name) => part.test(name)), `${part}: ${shown}`);
        await page.waitForFunction(() => document.querySelectorAll("#samples article").length === 2);
        assert.equal(await page.inputValue("#step"), "1000");
        assert.match(await text(page, "#samples tbody"), /2 hops4075\.0 %/);
        for (const summary of await page.locator("#samples summary").all()) await summary.click();
        await until(async () => await text(page, "#samples .reply .text") === HOSTILE);
        await page.waitForFunction(() => document.querySelectorAll("#sampled article").length === 2);
        assert.equal(await page.inputValue("#episode_step"), "1200");
        assert.match(await text(page, "#sampled summary"), /^reward 1\.00, advantage 1\.50: What is Grania/);
        assert.match(await text(page, "#sampled article:last-child"), /No episodes of that step were kept/);
        await page.locator("#sampled summary").click();
        // Texts come with the next frame.
        await until(async () => await text(page, "#sampled .reply .text") === HOSTILE);
        await page.locator("#choose summary").click();
        assert.equal(await page.locator("#all tbody tr").count(), 3);
        assert.equal(await page.evaluate(() => window.hacked), undefined);
        assert.equal(await page.locator("main img, main script, figcaption > b:nth-of-type(2)").count(), 0);
        await fits(page);
        await accessible(page);
        if (used.screenshots && width === 1280 && scheme === "light") {
          await page.locator("#choose summary").click();
          await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
          await page.screenshot({ path: path.join(used.screenshots, "runs.png") });
        }
        await page.selectOption("#beside", "");
        await page.waitForFunction(() => document.querySelectorAll("#curves .l1.line").length === 0);
        assert.deepEqual(Object.fromEntries(new URL(page.url()).searchParams), { run: "first", step: "1000", episode_step: "1200" });
        await page.close();
      }
    }
  });

  check("a run is watched as it goes on, and as it is gone back on", async (used) => {
    const { root, url } = await runs(used);
    const page = await used.open(`${url}?run=live`);
    await page.waitForFunction(() => document.getElementById("status").textContent.startsWith("There is no run “live” yet."));
    fs.mkdirSync(path.join(root, "live"));
    const file = path.join(root, "live/metrics.jsonl");
    fs.writeFileSync(file, row(1, 0.5) + '{"step": 2, "rew');
    await page.waitForFunction(() => document.querySelector("#legend")?.textContent.includes("live, step 1"));
    await page.evaluate(() => {
      window.shifts = 0;
      new PerformanceObserver((list) => list.getEntries().forEach((entry) => { if (!entry.hadRecentInput) window.shifts += entry.value; })).observe({ type: "layout-shift" });
    });
    fs.appendFileSync(file, 'ard": 0.75}\n' + row(3, 0.25));
    await page.waitForFunction(() => document.querySelector("#legend").textContent.includes("live, step 3"));
    assert.match((await figures(page))[0], /^reward 0\.250$/);
    // Resumed after its second step.
    fs.writeFileSync(file, row(1, 0.5));
    fs.appendFileSync(file, row(2, 0.125));
    await page.waitForFunction(() => document.querySelector("#legend").textContent.includes("live, step 2"));
    assert.match((await figures(page))[0], /^reward 0\.125$/);
    // Begun anew while the page is hidden, and longer by now.
    await page.evaluate(() => { Object.defineProperty(document, "hidden", { configurable: true, value: true }); });
    fs.writeFileSync(file, [1, 2, 3].map((step) => row(step, 0.75)).join(""));
    await page.evaluate(() => { delete document.hidden; document.dispatchEvent(new Event("visibilitychange")); });
    await page.waitForFunction(() => document.querySelector("#legend").textContent.includes("live, step 3"));
    await until(async () => (await page.locator("#curves figure .ends").first().textContent()).startsWith("0.750 to 0.750"));
    assert.ok(await page.evaluate(() => window.shifts) < 0.1, "nothing jumps");
    return page;
  });

  check("values that are not finite are said, and drawn for no other run", async (used) => {
    const { root, url } = await runs(used);
    for (const [name, reward, kl] of [["sound", 999.7, 0.5], ["diverged", null, null]]) {
      fs.mkdirSync(path.join(root, name));
      fs.writeFileSync(path.join(root, name, "metrics.jsonl"), [{ step: 1, reward: 0.5, kl }, { step: 2, reward, kl }].map((row) => `${JSON.stringify(row)}\n`).join(""));
    }
    const page = await used.open(`${url}?run=sound`);
    await page.waitForFunction(() => document.querySelectorAll("#curves figure").length === 2);
    assert.deepEqual(await figures(page), ["reward 1000", "KL from the initial policy, nats per token 0.500"]);
    await page.selectOption("#run", "diverged");
    await page.waitForFunction(() => document.querySelector("#legend").textContent.startsWith(" diverged, step 2"));
    await until(async () => (await figures(page))[0] === "reward not finite");
    assert.equal((await figures(page))[1], "KL from the initial policy, nats per token not finite");
    assert.equal(await page.locator("#curves polyline").count(), 1);
    return page;
  });

  check("a server that does not answer is asked once, and lists that are open stay", async (used) => {
    const root = path.join(used.folder, "stopped");
    for (const name of ["one", "two"]) {
      fs.mkdirSync(path.join(root, name), { recursive: true });
      fs.writeFileSync(path.join(root, name, "metrics.jsonl"), row(1, 0.5));
    }
    const { url, child } = await used.run(["runs", root], AT);
    const page = await used.open(`${url}?run=one`);
    await page.waitForFunction(() => document.querySelector("#legend").textContent.includes("one, step 1"));
    await page.evaluate(() => {
      window.rebuilt = 0;
      new MutationObserver(() => { window.rebuilt += 1; }).observe(document.getElementById("run"), { childList: true });
    });
    const newest = async () => (await (await fetch(new URL("v1/runs", url))).json()).data[0].name;
    for (const name of ["one", "two"]) {
      const at = new Date(Date.now() + (name === "two" ? 10_000 : 5000));
      fs.utimesSync(path.join(root, name, "metrics.jsonl"), at, at);
      assert.equal(await newest(), name);
      await page.waitForResponse((response) => response.url().endsWith("/v1/runs"));
    }
    assert.equal(await page.evaluate(() => window.rebuilt), 0);
    let asked = 0;
    page.on("request", (request) => { if (request.url().endsWith("/v1/runs")) asked += 1; });
    child.kill("SIGSTOP");
    // Six polls would be due by then.
    await page.waitForTimeout(12_500);
    const before = asked;
    child.kill("SIGCONT");
    await page.waitForTimeout(1500);
    assert.ok(before <= 1 && asked - before <= 2, `${before} and then ${asked}`);
    return page;
  });

  check("episodes of the newest step are shown, and stay while they are read", async (used) => {
    const { root, url } = await runs(used);
    const folder = path.join(root, "sampling");
    fs.mkdirSync(folder);
    fs.writeFileSync(path.join(folder, "metrics.jsonl"), row(1, 0.5));
    writeSamples(folder, 1);
    const page = await used.open(`${url}?run=sampling`);
    await page.waitForFunction(() => document.querySelector("#sampled summary"));
    writeSamples(folder, 2);
    await page.waitForFunction(() => document.getElementById("episode_step").value === "2");
    await page.locator("#sampled summary").click();
    writeSamples(folder, 3);
    await page.waitForFunction(() => document.getElementById("episode_step").options.length === 3);
    assert.equal(await page.inputValue("#episode_step"), "2");
    assert.equal(await page.locator("#sampled details[open]").count(), 1);
    await page.selectOption("#episode_step", "3");
    await page.waitForFunction(() => document.querySelector("#sampled details:not([open])"));
    assert.equal(new URL(page.url()).searchParams.get("episode_step"), "3");
    return page;
  });

  check("a GRPO run shows what it learns from", async (used) => {
    const config = path.join(used.folder, "grpo.toml");
    fs.writeFileSync(config, `schema_version = 1\noutput = "${used.folder}/grpo/mine"\nsteps = 1000000\ngroups_per_step = 2\ngroup_size = 4\neval = { tasks = 0 }\n` +
      'model = { path = "models/policy-warm" }\nlarge_model = { path = "models/large-model" }\ntasks = { kind = "world", questions = [{ chain = 2 }] }\n' +
      'limits = { max_turns = 4, max_turn_tokens = 64, max_policy_tokens = 256, allow_final = false }\n');
    const { url, child } = await used.run(["train", "grpo", "--config", config, "--ui"], AT);
    const page = await used.open(url);
    await page.waitForFunction(() => document.querySelector("#sampled summary"));
    assert.match(await text(page, "#sampled summary"), /^reward -?\d\.\d\d/);
    child.kill("SIGKILL");
    return page;
  });

  check("the report of an evaluation opens, and reaches nothing", async (used) => {
    const { url } = await runs(used);
    const page = await used.open(url);
    await page.locator("#choose summary").click();
    const asked = [];
    page.context().on("request", (request) => { if (request.url().includes("?image")) asked.push(request); });
    const [report] = await Promise.all([page.waitForEvent("popup"), page.getByRole("link", { name: "Report of eval" }).click()]);
    await report.waitForFunction(() => document.getElementById("said")?.textContent);
    // An image could tell somebody.
    await until(() => asked.every((request) => request.failure()));
    for (const request of asked) assert.match(request.failure().errorText, /csp/i);
    assert.equal(await text(report, "#said"), "refused");
    assert.equal(await report.title(), "ran null none");
    await report.close();
    return page;
  });

  check("training shows its run from its first step", async (used) => {
    const config = path.join(used.folder, "sft.toml");
    fs.writeFileSync(config, `schema_version = 1\noutput = "${used.folder}/trained/mine"\nsteps = 1000000\nbatch_size = 2\n` +
      'schedule = { peak = 1e-3 }\ndata = { kind = "world_demonstrations", count = 50 }\n[model.new]\nhidden_size = 16\nintermediate_size = 24\nnum_hidden_layers = 1\nnum_attention_heads = 2\nnum_key_value_heads = 1\nhead_dim = 8\nmax_position_embeddings = 512\n');
    const { url, child } = await used.run(["train", "sft", "--config", config, "--ui"], AT);
    assert.equal(new URL(url).search, "?run=mine");
    const page = await used.open(url);
    await page.waitForFunction(() => /loss \d/.test(document.querySelector("#curves")?.textContent));
    await page.waitForFunction(() => /mine, step \d+, running/.test(document.getElementById("legend").textContent));
    child.kill("SIGKILL");
    await page.waitForFunction(() => document.getElementById("status").textContent.includes("cannot be reached"));
    return page;
  });
};
