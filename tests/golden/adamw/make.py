"""Makes a trace of torch.optim.AdamW, with clipping by global norm, for two tensors over 12 steps.

    python make.py

writes `trace.safetensors` beside this file: for each step `STEP.NAME.gradient`, and after it
`STEP.NAME.value`; `STEP.norm` before clipping; `start.NAME` before the first step. The tensor
`matrix` decays, `vector` does not.
"""

import pathlib

import torch
from safetensors.torch import save_file

torch.manual_seed(3)
parameters = {
    "matrix": torch.nn.Parameter(torch.randn(5, 7)),
    "vector": torch.nn.Parameter(torch.randn(6)),
}
optimizer = torch.optim.AdamW(
    [
        {"params": [parameters["matrix"]], "weight_decay": 0.1},
        {"params": [parameters["vector"]], "weight_decay": 0.0},
    ],
    betas=(0.9, 0.95),
    eps=1e-8,
)
trace = {"start." + name: value.detach().clone() for name, value in parameters.items()}
for step in range(12):
    for name, value in parameters.items():
        # Some steps exceed the clipping norm of 1, some do not.
        value.grad = torch.randn_like(value) * 0.05 * (step + 1)
        trace[f"{step}.{name}.gradient"] = value.grad.clone()
    trace[f"{step}.norm"] = torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = 0.01 * (step + 1)
    optimizer.step()
    for name, value in parameters.items():
        trace[f"{step}.{name}.value"] = value.detach().clone()
versions = {"torch": torch.__version__}
save_file(trace, pathlib.Path(__file__).parent / "trace.safetensors", versions)
