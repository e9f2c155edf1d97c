"""The regulariser LLDS (arXiv 2512.04220) and its gradient, by PyTorch.

    python make.py > cases.json

Over the trajectories whose advantage is not negative and whose log-likelihood under the new policy
is below that under the old one, the sum of what each token's log-probability lost, as a share of
all tokens.
"""
import json

import torch

torch.manual_seed(0)


def llds(old, new, advantages, coefficient):
    total = 0.0
    for before, after, advantage in zip(old, new, advantages):
        falls = (before.sum() - after.sum()).detach() > 0
        if advantage >= 0 and falls:
            total = total + torch.relu(before - after).sum()
    return coefficient * total / sum(len(before) for before in old)


cases = []
for coefficient in (0.1, 1.0):
    for _ in range(4):
        lengths = torch.randint(1, 7, (5,)).tolist()
        old = [-torch.rand(n, dtype=torch.float64) * 3 for n in lengths]
        new = [(o + 0.3 * torch.randn_like(o)).requires_grad_() for o in old]
        advantages = torch.randn(5, dtype=torch.float64).tolist()
        loss = llds(old, new, advantages, coefficient) + 0 * sum(n.sum() for n in new)
        loss.backward()
        cases.append(
            {
                "coefficient": coefficient,
                "old": [o.tolist() for o in old],
                "new": [n.tolist() for n in new],
                "advantages": advantages,
                "loss": loss.item(),
                "gradients": [n.grad.tolist() for n in new],
            }
        )
print(json.dumps(cases, indent=1))
