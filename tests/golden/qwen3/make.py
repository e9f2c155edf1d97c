"""Makes tiny Qwen3 checkpoints with transformers' logits, scores and gradients for them.

    python make.py

writes, beside this file, one folder for each case: `config.json`, the weights, `case.json` (ids,
selection, temperature, library versions) and `expected.safetensors` (logits, log-probabilities,
entropies, and as `grad.NAME` the gradient of
sum(d_log_probs * log_probs + d_entropies * entropies) for every parameter).
"""

import json
import pathlib
import shutil

import torch
import transformers
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

HERE = pathlib.Path(__file__).parent
SEQUENCES = [7, 1, 12, 5]

# heads, kv_heads, head_dim, hidden, tied, sharded, transformers-5 way of writing the rotary base
CASES = {
    "tied": (2, 2, 8, 16, True, False, False),
    "sharded": (4, 2, 6, 20, False, True, False),
    "wide_group": (4, 1, 10, 32, True, False, False),
    "rope_parameters": (4, 2, 16, 24, False, False, True),
}


def config_json(config, new_style):
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


def make(name, seed, case):
    heads, kv_heads, head_dim, hidden, tied, sharded, new_style = case
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=48,
        hidden_size=hidden,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=64,
        rms_norm_eps=1e-6,
        tie_word_embeddings=tied,
        rope_parameters={"rope_theta": 10_000.0 * (seed + 1), "rope_type": "default"},
        attn_implementation="eager",
    )
    model = Qwen3ForCausalLM(config).float().eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            parameter.copy_(1 + 0.2 * noise if "norm" in key else 0.2 * noise)

    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    weights = {key: value.detach().clone() for key, value in model.named_parameters()}
    if sharded:
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
    text = json.dumps(config_json(config, new_style), indent=2)
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
    described = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "seed": seed,
        "temperature": temperature,
        "sequences": [sequence.tolist() for sequence in sequences],
        "rows": rows.tolist(),
        "targets": targets.tolist(),
    }
    (folder / "case.json").write_text(json.dumps(described) + "\n")


for number, (name, case) in enumerate(CASES.items()):
    make(name, number, case)
