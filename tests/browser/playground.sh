#!/usr/bin/env bash
# Uses the page at `/` as people do, in a real browser, against the real server: with the bundled
# models, and with a large model that writes what would break a careless page. In light and dark,
# wide and narrow, by keyboard, and checked by axe-core.
#
#   tests/browser/playground.sh SERVER [SCREENSHOTS]
#
# Then the page of `server runs` and `server train --ui`. SCREENSHOTS is a folder to put pictures into.
# With PLAYGROUND_FILES=src/playground the page's files come from that folder, not out of SERVER: no
# build is needed to try a change. ONLY=TEXT runs the checks whose names contain TEXT.
#
# Needs node, npm, python3 and curl; installs Chromium where it is missing; fails where that cannot be done.
set -euo pipefail
cd "$(dirname "$0")/../.."

. tests/browser/install.sh
NODE_PATH="$cache/node_modules" node tests/browser/playground.cjs "$@"
