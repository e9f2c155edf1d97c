// Shared by the checks of all pages.
"use strict";
const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

// Serves the page's files from this folder instead: to try changes without a build.
const files = process.env.PLAYGROUND_FILES;
const LONG = 60_000;

// A page in its own browser; a console error or a request to another host fails the check.
async function open(browser, url, { width = 1280, scheme = "light", timezone, complains = false } = {}) {
  const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: scheme, timezoneId: timezone });
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
    if (!request.url().replace(/^blob:/, "").startsWith(new URL(url).origin)) page.wrong.push(`fetched ${request.url()}`);
  });
  if (files) {
    await page.route((asked) => asked.pathname === "/" || asked.pathname.startsWith("/playground/"), async (route) => {
      const response = await route.fetch();
      const first = (await response.text()).includes("runs.js") ? "runs.html" : "page.html";
      const name = new URL(route.request().url()).pathname.replace("/playground/", "").replace(/^\/$/, first);
      // Also files that this build of the server lacks.
      const contentType = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml" }[path.extname(name)];
      await route.fulfill({ response, status: 200, contentType, body: fs.readFileSync(path.join(files, name)) });
    });
  }
  await page.goto(url);
  return page;
}

async function ask(page, question) {
  await page.fill("#question", question);
  await page.click("#go");
}

// Polls `look` until it returns something.
async function until(look) {
  for (let tries = 0; tries < 200; tries += 1) {
    const found = await look();
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

module.exports = { accessible, ask, done, fits, open, text, until };
