#!/usr/bin/env bash
# Opens an evaluation's page in a real browser: its plots are drawn, its filters work, nothing
# overflows and nothing is fetched, in light and dark, wide and narrow.
#
#   tests/browser/report.sh [PAGE]
#
# Installs Chromium where it is missing; fails where that cannot be done.
set -euo pipefail
cd "$(dirname "$0")/../.."
page="$(realpath "${1:-models/report/report.html}")"

if ! command -v chromium >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi

folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

# The page with a script at its end that uses it as a reader would and writes down what it found.
python3 - "$page" "$folder/page.html" <<'PYTHON'
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
    for (const mark of svg.querySelectorAll(".mark, text")) {
      const at = mark.getBoundingClientRect();
      expect(at.left >= box.left - 1 && at.right <= box.right + 1 && at.top >= box.top - 1 && at.bottom <= box.bottom + 1,
        `${mark.textContent || "a mark"} lies in its plot`);
      const [c, paper] = [getComputedStyle(mark).fill, getComputedStyle(document.querySelector(".card")).backgroundColor];
      expect(c !== paper && c !== "none", "a mark is seen");
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
  const first = document.querySelector("details.episode");
  first.querySelector("summary").click();
  expect(first.open && first.querySelectorAll("section").length > 0, "an episode opens");
  expect(document.documentElement.scrollWidth <= innerWidth, `nothing overflows ${innerWidth}: ${document.documentElement.scrollWidth}`);
  expect(performance.getEntriesByType("resource").length === 0, "nothing is fetched");
  document.title = wrong.length ? "WRONG " + [...new Set(wrong)].join("; ") : `RIGHT ${all} episodes`;
})();
</script>
</body>"""
text = open(sys.argv[1]).read()
assert text.count("</body>") == 1
open(sys.argv[2], "w").write(text.replace("</body>", check))
PYTHON

for size in 1280,1600 500,1600; do
  for scheme in 1 0; do # light, dark
    timeout 120 chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run \
      --disable-background-networking --disable-component-update --disable-sync \
      --user-data-dir="$folder/profile-$size-$scheme" --window-size="$size" \
      --blink-settings="preferredColorScheme=$scheme" \
      --dump-dom "file://$folder/page.html" >"$folder/dom.html" 2>"$folder/log" ||
      { cat "$folder/log" >&2; exit 1; }
    said="$(grep -o '<title>[^<]*</title>' "$folder/dom.html" | head -1)"
    echo "$size, colour scheme $scheme: $said"
    [[ "$said" == "<title>RIGHT"* ]] || exit 1
  done
done
