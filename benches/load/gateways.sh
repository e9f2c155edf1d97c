#!/usr/bin/env bash
# Installs the gateways that proxy.sh measures beside this one, into a folder of their own.
set -euo pipefail
gateways=${1:?usage: gateways.sh FOLDER}
mkdir -p "$gateways"
python3 -m venv "$gateways/litellm"
"$gateways/litellm/bin/pip" install --quiet 'litellm[proxy]==1.106.2'
npm install --silent --prefix "$gateways/portkey" @portkey-ai/gateway@1.15.2
