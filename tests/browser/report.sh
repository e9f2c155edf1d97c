#!/usr/bin/env bash
# Opens an evaluation's page in a real browser: its plots are drawn, its filters work, nothing
# overflows, nothing is fetched, and nothing that a model or a user wrote is run; in light and dark,
# wide and narrow.
#
#   [SERVER=BINARY] tests/browser/report.sh [PAGE]...
#
# Without a page it makes one, with SERVER or a server that it builds, from the bundled models and
# questions that would break a careless page, and checks models/report/report.html too where that is
# there. Installs Chromium where it is missing; fails where that cannot be done.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v chromium >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

if [[ $# -eq 0 ]]; then
  if [[ -z "${SERVER:-}" ]]; then
    cargo build --locked --bin server
    SERVER="${CARGO_TARGET_DIR:-target}/debug/server"
  fi
  RUST_LOG=warn "$SERVER" eval --config tests/browser/eval.toml --output "$folder/made" >/dev/null
  set -- "$folder/made/report.html"
  [[ ! -f models/report/report.html ]] || set -- "$@" models/report/report.html
fi

# Adds a script to a page that uses it as a reader would, and records the results.
add_check() { # add_check PAGE TO
  python3 - "$1" "$2" <<'PYTHON'
import sys

check = """<script>
(() => {
  const wrong = [];
  const expect = (holds, what) => { if (!holds) wrong.push(what); };
  const shown = () => [...document.querySelectorAll("details.episode")].filter(e => !e.hidden).length;
  const press = name => document.querySelector(`[data-filter="${name}"]`).click();
  const all = document.querySelectorAll("details.episode").length;
  expect(document.querySelectorAll("figure svg").length >= 2, "there are two plots");
  for (const svg of document.querySelectorAll("figure svg")) {
    const box = svg.getBoundingClientRect();
    expect(box.width > 200 && box.height > 100, "a plot has a size");
    expect(svg.querySelectorAll(".mark").length > 0, "a plot has marks");
    for (const mark of svg.querySelectorAll(".mark, text")) {
      const at = mark.getBoundingClientRect();
      expect(at.left >= box.left - 1 && at.right <= box.right + 1 && at.top >= box.top - 1 && at.bottom <= box.bottom + 1,
        `${mark.textContent || "a mark"} lies in its plot`);
      const [c, paper] = [getComputedStyle(mark).fill, getComputedStyle(document.querySelector(".card")).backgroundColor];
      expect(c !== paper && c !== "none", "a mark is seen");
    }
    const texts = [...svg.querySelectorAll("text")].map(text => text.getBoundingClientRect());
    for (const [i, a] of texts.entries()) for (const b of texts.slice(i + 1)) {
      const over = Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
      expect(!over, "no two labels of a plot overlap");
    }
  }
  expect(all > 0 && shown() === all, "all episodes are shown");
  press("differ"); const differ = shown();
  press("wrong"); const none = shown();
  expect(differ + none <= all && differ < all, "filters leave some out");
  press("all"); expect(shown() === all, "all are shown again");
  const search = document.querySelector("input[type=search]");
  search.value = "no such text anywhere \\u0001"; search.dispatchEvent(new Event("input"));
  expect(shown() === 0, "a search for nothing shows nothing");
  search.value = ""; search.dispatchEvent(new Event("input"));
  for (const episode of document.querySelectorAll("details.episode")) episode.querySelector("summary").click();
  expect([...document.querySelectorAll("details.episode")].every(e => e.open && e.querySelectorAll("section").length > 0),
    "every episode opens");
  expect(document.documentElement.scrollWidth <= innerWidth, `nothing overflows ${innerWidth}: ${document.documentElement.scrollWidth}`);
  expect(performance.getEntriesByType("resource").length === 0, "nothing is fetched");
  expect(window.hacked === undefined, "nothing that was written is run");
  document.title = wrong.length ? "WRONG " + [...new Set(wrong)].join("; ") : `RIGHT ${all} episodes`;
})();
</script>
</body>"""
text = open(sys.argv[1], encoding="utf-8").read()
assert text.count("</body>") == 1
open(sys.argv[2], "w", encoding="utf-8").write(text.replace("</body>", check))
PYTHON
}

for page in "$@"; do
  add_check "$page" "$folder/page.html"
  for size in 1280,1600 500,1600; do
    for scheme in 1 0; do # light, dark
      rm -rf "$folder/profile"
      timeout 120 chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
        --disable-background-networking --disable-component-update --disable-sync \
        --disable-dev-shm-usage --user-data-dir="$folder/profile" --window-size="$size" \
        --blink-settings="preferredColorScheme=$scheme" \
        --dump-dom "file://$folder/page.html" >"$folder/dom.html" 2>"$folder/log" ||
        { cat "$folder/log" >&2; exit 1; }
      said="$(grep -o -m 1 '<title>[^<]*</title>' "$folder/dom.html" || true)"
      echo "$page, $size, colour scheme $scheme: ${said:-no title}"
      [[ "$said" == "<title>RIGHT"* ]] || exit 1
    done
  done
done
