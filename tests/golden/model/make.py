"""Makes tiny checkpoints of every family with transformers' logits, scores, gradients and greedy tokens.

    python make.py [CASE...]

writes, beside this file, one folder for each case: `config.json`, the weights, `case.json` (ids,
selection, temperature, greedy tokens, library versions) and `expected.safetensors` (logits,
log-probabilities, entropies, and as `grad.NAME` the gradient of
sum(d_log_probs * log_probs + d_entropies * entropies) for every parameter).

`config.json` is as transformers 5 writes it; in cases that are `old`, as transformers 4 did.

    python make.py --written FOLDER

reads each folder in FOLDER, which this program wrote of the case of its name, and compares its
configuration and its logits with those of the case; `written.sh` makes them.
"""

import json
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent
SEQUENCES = [7, 1, 12, 5]
PROMPT, GREEDY = 6, 20


def qwen3(heads, kv_heads, head_dim, hidden, tied, seed):
    rope = {"rope_theta": 10_000.0 * (seed + 1), "rope_type": "default"}
    return "Qwen3", heads, kv_heads, hidden, {
        "head_dim": head_dim, "tie_word_embeddings": tied, "rope_parameters": rope
    }


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
YARN |= {"original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}

# family, heads, key-value heads, hidden, what else differs from the family's defaults
CASES = {
    "tied": qwen3(2, 2, 8, 16, True, 0),
    "sharded": qwen3(4, 2, 6, 20, False, 1),
    "wide_group": qwen3(4, 1, 10, 32, True, 2),
    "rope_parameters": qwen3(4, 2, 16, 24, False, 3),
    "qwen3_yarn": ("Qwen3", 2, 1, 16, {
        "head_dim": 12, "attention_bias": True, "rope_parameters": YARN, "eos_token_id": [3, 5],
    }),
    "qwen2": ("Qwen2", 4, 2, 24, {"rope_parameters": PLAIN, "tie_word_embeddings": True}),
    "qwen2_window": ("Qwen2", 2, 1, 16, {
        "rope_parameters": PLAIN, "use_sliding_window": True, "sliding_window": 4,
        "max_window_layers": 1, "hidden_act": "gelu_pytorch_tanh",
    }),
    "llama": ("Llama", 6, 2, 24, {"rope_parameters": PLAIN, "tie_word_embeddings": True}),
    "llama3": ("Llama", 2, 2, 16, {"head_dim": 20, "rope_parameters": LLAMA3}),
    "llama_linear": ("Llama", 4, 2, 16, {"attention_bias": True, "rope_parameters": LINEAR}),
    "mistral": ("Mistral", 4, 2, 16, {"rope_parameters": PLAIN, "sliding_window": 5}),
    "gemma3": ("Gemma3", 4, 2, 16, {
        "head_dim": 10, "query_pre_attn_scalar": 12, "sliding_window": 4, "pad_token_id": None,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"full_attention": LINEAR, "sliding_attention": PLAIN},
    }),
}
# The first cases were written this way, and their numbers are kept.
MINIMAL = {"tied": False, "sharded": False, "wide_group": False, "rope_parameters": True}
OLD = ["qwen2_window", "llama_linear", "gemma3"]


def minimal_json(config, new_style):
    keys = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads head_dim max_position_embeddings rms_norm_eps tie_word_embeddings"
    )
    value = {key: getattr(config, key) for key in keys.split()}
    value |= {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu"}
    theta = config.rope_parameters["rope_theta"]
    if new_style:
        value["rope_parameters"] = {"rope_theta": theta, "rope_type": "default"}
    else:
        value["rope_theta"] = theta
    return value


def old_json(value):
    rope = value.pop("rope_parameters")
    if "full_attention" in rope:
        value["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        value["sliding_window_pattern"] = len(value.pop("layer_types"))
        rope = rope["full_attention"]
    else:
        value.pop("layer_types", None)
    rope = dict(rope)
    value["rope_theta"] = rope.pop("rope_theta")
    value["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    return value


def config_json(name, config):
    if name in MINIMAL:
        return minimal_json(config, MINIMAL[name])
    value = json.loads(config.to_json_string(use_diff=False))
    # null: the reader's default.
    value = {key: part for key, part in value.items() if part is not None}
    return old_json(value) if name in OLD else value


def make(name, seed, case):
    family, heads, kv_heads, hidden, rest = case
    torch.manual_seed(seed)
    text = "Text" if family == "Gemma3" else ""
    config = getattr(transformers, f"{family}{text}Config")(
        vocab_size=48,
        hidden_size=hidden,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=64,
        rms_norm_eps=1e-6,
        attn_implementation="eager",
        **rest,
    )
    model = getattr(transformers, f"{family}ForCausalLM")(config).float().eval()
    if name not in MINIMAL:
        config.architectures = [f"{family}ForCausalLM"]
    center = 0 if family == "Gemma3" else 1
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(center + 0.2 * noise if "norm" in key else 0.2 * noise)

    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    weights = {key: value.detach().contiguous() for key, value in model.named_parameters()}
    if name == "sharded":
        names = sorted(weights)
        half = len(names) // 2
        files = {"model-00001-of-00002.safetensors": names[:half]}
        files["model-00002-of-00002.safetensors"] = names[half:]
        for file, keys in files.items():
            save_file({key: weights[key] for key in keys}, folder / file, {"format": "pt"})
        index = {key: file for file, keys in files.items() for key in keys}
        text = json.dumps({"metadata": {}, "weight_map": index}, indent=1)
        (folder / "model.safetensors.index.json").write_text(text + "\n")
    else:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    text = json.dumps(config_json(name, config), indent=2)
    (folder / "config.json").write_text(text + "\n")

    sequences = [torch.randint(0, config.vocab_size, (length,)) for length in SEQUENCES]
    logits = torch.cat([model(sequence[None]).logits[0] for sequence in sequences])
    rows = torch.tensor([row for row in range(len(logits)) if row % 5 != 3])
    targets = torch.randint(0, config.vocab_size, (len(rows),))
    temperature = 0.7
    log_p = torch.log_softmax(logits[rows] / temperature, -1)
    log_probs = log_p.gather(1, targets[:, None])[:, 0]
    entropies = -(log_p.exp() * log_p).sum(-1)
    d_log_probs, d_entropies = torch.randn(len(rows)), torch.randn(len(rows))
    (d_log_probs * log_probs + d_entropies * entropies).sum().backward()

    expected = {"logits": logits, "log_probs": log_probs, "entropies": entropies}
    expected |= {"d_log_probs": d_log_probs, "d_entropies": d_entropies}
    expected |= {"grad." + key: value.grad for key, value in model.named_parameters()}
    expected = {key: value.detach().contiguous() for key, value in expected.items()}
    save_file(expected, folder / "expected.safetensors")

    greedy = torch.randint(0, config.vocab_size, (PROMPT,)).tolist()
    with torch.no_grad():
        for _ in range(GREEDY):
            greedy.append(model(torch.tensor([greedy])).logits[0, -1].argmax().item())
    described = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seed": seed,
        "temperature": temperature,
        "sequences": [sequence.tolist() for sequence in sequences],
        "rows": rows.tolist(),
        "targets": targets.tolist(),
        "prompt": greedy[:PROMPT],
        "greedy": greedy[PROMPT:],
    }
    (folder / "case.json").write_text(json.dumps(described) + "\n")


def read(folder):
    name = folder.name
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    described = json.loads((HERE / name / "case.json").read_text())
    with torch.no_grad():
        sequences = [torch.tensor([sequence]) for sequence in described["sequences"]]
        logits = torch.cat([model(sequence).logits[0] for sequence in sequences])
    expected = load_file(HERE / name / "expected.safetensors")["logits"]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4, msg=name)
    print(f"{name}: as it was made")


if sys.argv[1:2] == ["--written"]:
    folders = sorted(pathlib.Path(sys.argv[2]).iterdir())
    assert len(folders) == len(CASES), folders
    for folder in folders:
        read(folder)
    sys.exit()

for number, (name, case) in enumerate(CASES.items()):
    if name in sys.argv[1:] or len(sys.argv) == 1:
        make(name, number, case)
