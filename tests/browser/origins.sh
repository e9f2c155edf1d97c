#!/usr/bin/env bash
# Web pages as callers, in a real browser: pages of a foreign origin and of a name that resolves to
# this machine get nothing of a server without keys, and cause no call; a page that the operator
# names is served.
#
#   tests/browser/origins.sh SERVER
#
# Needs node and npm; installs Chromium where it is missing; fails where that cannot be done.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/browser/install.sh
NODE_PATH="$cache/node_modules" node tests/browser/origins.cjs "$@"
