# Installs Chromium and its driver where they are missing. Sets `cache` to their folder.
if ! command -v chromium >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null
fi
cache="${PROMPT_R1_BROWSER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prompt-r1/browser}"
mkdir -p "$cache"
[ -f "$cache/package.json" ] || echo '{"private": true}' >"$cache/package.json"
npm install --prefix "$cache" --silent --no-audit --no-fund playwright-core@1.65.1 axe-core@4.14.1
