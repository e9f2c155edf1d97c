// A request as a program. The key is named, never written.
import { h } from "./dom.js";

const url = () => new URL("v1/solve", document.baseURI).href.replace(/\?.*/, "");
const shell = (value) => `'${value.replaceAll("'", "'\\''")}'`;
const lines = (...parts) => parts.flat().join("\n");

const PROGRAMS = {
  // Printed by the shell itself: an argument of a program may not be as long as an image.
  curl: (body, hasKey) => lines(
    `printf %s ${shell(JSON.stringify(body))} |`,
    `  curl -s ${shell(url())} -H 'content-type: application/json' \\`,
    hasKey ? ['  -H "authorization: Bearer $PROMPT_R1_KEY" \\'] : [],
    "  -d @-",
  ),
  // A string of JSON means the same in Python.
  Python: (body, hasKey) => lines(
    "import json, os, urllib.request",
    "",
    `body = ${JSON.stringify(JSON.stringify(body))}`,
    'headers = {"content-type": "application/json"}',
    hasKey ? ['headers["authorization"] = "Bearer " + os.environ["PROMPT_R1_KEY"]'] : [],
    `request = urllib.request.Request(${JSON.stringify(url())}, body.encode(), headers)`,
    "with urllib.request.urlopen(request) as response:",
    '    print(json.load(response)["answer"])',
  ),
  Node: (body, hasKey) => lines(
    'const headers = { "content-type": "application/json" };',
    hasKey ? ["headers.authorization = `Bearer ${process.env.PROMPT_R1_KEY}`;"] : [],
    `const body = ${JSON.stringify(body, null, 2)};`,
    `const response = await fetch(${JSON.stringify(url())}, { method: "POST", headers, body: JSON.stringify(body) });`,
    "console.log((await response.json()).answer);",
  ),
};

// Buttons that copy the request, and the text that they copied.
export function copies(body, hasKey, say) {
  const code = h("textarea", { class: "code", rows: 8, readonly: true, hidden: true, "aria-label": "The program" });
  const copy = async (name, program) => {
    code.value = program(body, hasKey);
    code.hidden = false;
    code.focus();
    code.select();
    // There is no clipboard on pages of other machines without TLS.
    const isCopied = await navigator.clipboard?.writeText(code.value).then(() => true, () => false);
    say(isCopied ? `Copied as ${name}.` : "The browser does not let this page copy: the text is selected, copy it yourself.");
  };
  const buttons = Object.entries(PROGRAMS).map(([name, program]) =>
    h("button", { type: "button", class: "small", onclick: () => copy(name, program) }, `Copy as ${name}`));
  return [h("div", { class: "row" }, ...buttons), code];
}
