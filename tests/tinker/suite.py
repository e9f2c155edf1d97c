"""GRPO with updates by SkyRL, and its failures: `suite.py SERVER WORK`.

Needs nothing but Python's library, safetensors and numpy; run.sh prepares the rest.
"""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy
from safetensors.numpy import load_file

server, work = sys.argv[1], pathlib.Path(sys.argv[2])
here = pathlib.Path(__file__).parent
root = here.parent.parent
base = root / "models/policy-warm"
STEPS, CUT = int(os.environ.get("STEPS", "10")), 4
BACKEND = {"max_lora_adapters": 3, "max_lora_rank": 8, "train_micro_batch_size": 16}

RUN = """
schema_version = 1
output = {output}
seed = 5
steps = {steps}
groups_per_step = 8
group_size = 8
checkpoint_every = 1
keep_checkpoints = 100
clip_norm = inf
schedule = {{ peak = 2e-3, warmup_steps = 0 }}
model = {{ path = {base} }}
large_model = {{ path = "models/large-model" }}
tasks = {{ kind = "world", questions = [{{ chain = 2 }}] }}
limits = {{ max_turns = 4, max_turn_tokens = 48, deadline_ms = 600000 }}
eval = {{ every = 1000, tasks = 0 }}
[trainer]
kind = "tinker"
url = {url}
base_model = {base}
loss_scale = "skyrl-jax"
rank = {rank}
outage_ms = {outage_ms}
"""


def free_port():
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


class SkyRL:
    """A server over the files in a folder."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.log = folder / f"log-{self.port}"
        env = os.environ | {
            "COLUMNS": "300", "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
            "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_CACHE"],
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        command = [sys.executable, here / "serve.py", "api", "--backend", "jax", "--base-model", base,
                   "--backend-config", json.dumps(BACKEND), "--port", str(self.port),
                   "--checkpoints-base", folder / "checkpoints",
                   "--database-url", f"sqlite:///{folder}/tinker.db"]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        begun = time.time()
        while "Initialized TinkerEngine" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.time() < begun + 180, f"SkyRL does not start: {self.log.read_text()}"
            time.sleep(0.2)
        print(f"SkyRL started in {time.time() - begun:.0f} s", flush=True)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def post(self, path, body):
        request = urllib.request.Request(f"{self.url}/api/v1/{path}", json.dumps(body).encode(),
                                         {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.kill()


def train(name, skyrl, steps=STEPS, rank=8, resume=False, outage_ms=20000):
    folder = work / name
    folder.mkdir(exist_ok=True)
    text = RUN.format(output=json.dumps(str(folder / "run")), steps=steps, base=json.dumps(str(base)),
                      url=json.dumps(skyrl if isinstance(skyrl, str) else skyrl.url), rank=rank,
                      outage_ms=outage_ms)
    (folder / "run.toml").write_text(text)
    command = [server, "train", "grpo", "--config", folder / "run.toml", *(["--resume"] if resume else [])]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def done(run):
    assert run.returncode == 0, run.stderr
    return pathlib.Path(run.stdout.strip())


def refused(run, *expected):
    assert run.returncode != 0, run.stdout
    for text in expected:
        assert text in run.stderr, f"`{text}` is not in: {run.stderr}"


def metrics(name):
    lines = (work / name / "run/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def apart(a, b):
    """The largest difference between two adapters, and the largest value."""
    a, b = (load_file(folder / "adapter/adapter_model.safetensors") for folder in (a, b))
    assert a.keys() == b.keys()
    return (max(float(numpy.abs(a[key] - b[key]).max()) for key in a),
            max(float(numpy.abs(a[key]).max()) for key in a))


with SkyRL(work / "skyrl") as skyrl:
    begun = time.time()
    whole = done(train("whole", skyrl))
    steps = metrics("whole")
    print(f"{len(steps)} steps in {time.time() - begun:.0f} s")
    rewards = [step["reward"] for step in steps]
    print("reward", *(f"{reward:.2f}" for reward in rewards))
    third = len(rewards) // 3
    assert numpy.mean(rewards[-third:]) > numpy.mean(rewards[:third]) + 0.05, "the reward does not rise"
    # The engine samples with the adapter that was fetched, and SkyRL scores with the one it has.
    most = max(step["rollout_logprob_diff_max"] for step in steps)
    print(f"log-probabilities here and there differ by {most:.1e} at most")
    assert most < 1e-4, most
    assert all(step["gradient_norm"] > 0 for step in steps)

    # A request with a repeated number is executed once; another body with that number is refused.
    session = skyrl.post("create_session", {"tags": [], "sdk_version": "0.25.0"})["session_id"]
    made = skyrl.post("create_model", {"session_id": session, "base_model": str(base),
                                       "lora_config": {"rank": 4, "seed": 1}})
    skyrl.post("retrieve_future", {"request_id": made["request_id"]})
    refused(train("rank", skyrl, rank=9), "LoRA rank 9 must be between 1 and 8", "hint: `trainer.rank`")
    second = skyrl.post("create_model", {"session_id": session, "base_model": str(base),
                                         "lora_config": {"rank": 4, "seed": 1}})
    skyrl.post("retrieve_future", {"request_id": second["request_id"]})
    refused(train("full", skyrl), "Maximum number of LoRA adapters (3) reached", "hint: all places")
    adam = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.0}
    step = {"model_id": made["model_id"], "seq_id": 7, "adam_params": adam}
    assert len({skyrl.post("optim_step", step)["request_id"] for _ in range(3)}) == 1
    for model in (made, second):
        skyrl.post("unload_model", {"model_id": model["model_id"]})

    # Killed in the middle, and resumed with a restarted server.
    done(train("cut", skyrl, steps=CUT))
    skyrl.kill()
refused(train("cut", skyrl.url, resume=True, outage_ms=300), "hint: is it running there?")
with SkyRL(work / "skyrl") as skyrl:
    resumed = done(train("cut", skyrl, resume=True))
difference, largest = apart(whole, resumed)
print(f"whole and resumed adapters differ by {difference:.1e}, of values up to {largest:.2f}")
assert difference < 1e-4, difference
print("all good")
