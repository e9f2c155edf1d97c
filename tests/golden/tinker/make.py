"""The advantages that give a Tinker server's loss the gradient of a GRPO objective, by PyTorch.

    python make.py > cases.json

The objective is written down directly on the log-probabilities, and differentiated by autograd. The
server's loss is importance sampling, -exp(log_prob - logprobs) * advantage, made one over all
positions of all trajectories as SkyRL does: by their sum (FSDP, Megatron), or by the mean over
trajectories of the mean over the positions of each (JAX). `logprobs` are the current ones; the
advantages are solved for, and autograd through the server's loss must give the objective's gradient.
"""
import json

import torch

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)

OBJECTIVES = {
    "clip": {},
    "clip and KL": {"kl_coef": 0.1},
    "weighted by a capped ratio": {"importance_cap": 2.0, "kl_coef": 0.05, "kl_estimator": "k2"},
    "sequence ratio, mean of sequences": {"importance": "sequence", "aggregation": "sequence_mean"},
    "Dr.GRPO, dual clip": {"aggregation": {"dr_grpo": 16.0}, "dual_clip": 3.0},
}
DEFAULTS = {"clip_low": 0.2, "clip_high": 0.28, "importance": "token", "aggregation": "token_mean",
            "kl_coef": 0.0, "kl_estimator": "k3"}


def trajectory():
    """Log-probabilities of every position after the first token, of which a part was sampled."""
    length = int(torch.randint(4, 12, ()))
    mask = torch.rand(length) < 0.6
    mask[-1] = True
    now = -torch.rand(length) * 3
    return {
        "mask": mask,
        "now": now,
        "rollout": now + 0.3 * torch.randn(length),
        "reference": now + 0.2 * torch.randn(length),
        "advantage": float(torch.randn(())),
    }


def objective(settings, trajectories, scores):
    tokens = sum(int(t["mask"].sum()) for t in trajectories)
    total = 0.0
    for t, now in zip(trajectories, scores):
        m, advantage = t["mask"], t["advantage"]
        now, rollout, reference = now[m], t["rollout"][m], t["reference"][m]
        cap = settings.get("importance_cap")
        old = rollout if cap is None else now.detach()
        weight = 1.0 if cap is None else torch.exp(old - rollout).clamp(max=cap)
        log_ratio = now - old
        if settings["importance"] == "sequence":
            log_ratio = log_ratio.mean().expand_as(log_ratio)
        ratio = torch.exp(log_ratio)
        low, high = 1 - settings["clip_low"], 1 + settings["clip_high"]
        worth = torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
        if "dual_clip" in settings and advantage < 0:
            worth = torch.maximum(worth, torch.tensor(settings["dual_clip"] * advantage))
        d = reference - now
        kl = {"k2": d * d / 2, "k3": torch.exp(d) - d - 1}[settings["kl_estimator"]]
        loss = settings["kl_coef"] * kl - weight * worth
        match settings["aggregation"]:
            case "token_mean":
                total = total + loss.sum() / tokens
            case "sequence_mean":
                total = total + loss.mean() / len(trajectories)
            case {"dr_grpo": constant}:
                total = total + loss.sum() / constant / len(trajectories)
    return total


def server(scale, logprobs, advantages, scores):
    losses = [-torch.exp(s - p) * a for s, p, a in zip(scores, logprobs, advantages)]
    if scale == "sum":
        return sum(loss.sum() for loss in losses)
    return sum(loss.mean() for loss in losses) / len(losses)


def leaves(trajectories):
    return [t["now"].clone().requires_grad_() for t in trajectories]


cases = []
for name, own in OBJECTIVES.items():
    settings = DEFAULTS | own
    trajectories = [trajectory() for _ in range(6)]
    scores = leaves(trajectories)
    loss = objective(settings, trajectories, scores)
    loss.backward()
    slopes = [s.grad for s in scores]
    advantages = {}
    for scale in ("sum", "skyrl-jax"):
        # The loss of that scale for advantages of 1.
        probe = leaves(trajectories)
        now = [t["now"] for t in trajectories]
        server(scale, now, [torch.ones_like(s) for s in probe], probe).backward()
        solved = [slope / p.grad for slope, p in zip(slopes, probe)]
        check = leaves(trajectories)
        server(scale, now, solved, check).backward()
        for c, slope in zip(check, slopes):
            assert torch.allclose(c.grad, slope, rtol=0, atol=1e-14)
        advantages[scale] = [a.tolist() for a in solved]
    cases.append({
        "name": name,
        "objective": settings,
        "loss": loss.item(),
        "trajectories": [
            {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in t.items()}
            for t in trajectories
        ],
        "advantages": advantages,
    })
print(json.dumps(cases))
