// A browser that opens and closes the page at a URL as each line of its input says:
// `paint`: loads it anew and says when it was first painted, milliseconds; `open` and `close`.
"use strict";
const readline = require("node:readline");
const { chromium } = require("playwright-core");

const [, , url] = process.argv;

async function main() {
  const args = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
  let held = null;
  const load = async () => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
    const page = await context.newPage();
    await page.goto(url, { waitUntil: "networkidle" });
    return { context, page };
  };
  for await (const line of readline.createInterface({ input: process.stdin })) {
    if (line === "paint") {
      const { context, page } = await load();
      const [paint] = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint").map((entry) => entry.startTime));
      await context.close();
      console.log(Math.round(paint));
    } else if (line === "open") {
      held = await load();
      console.log("opened");
    } else if (line === "close") {
      await held.context.close();
      console.log("closed");
    }
  }
  await browser.close();
}

main().catch((error) => { console.error(error); process.exit(1); });
