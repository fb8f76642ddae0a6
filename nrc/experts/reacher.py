"""The Reacher expert: back-propagation through a model of the arm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from nrc.experts.policy import Policy

STEP = 0.02  # seconds per action: two simulator steps of 0.01 s
GEAR = 200.0
LINKS = (0.1, 0.11)  # metres


def arm_step(angle: Tensor, speed: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """One action of the arm: angles, speeds (B, 2) and controls (B, 2) -> next angles, speeds.

    Joint armature and damping are 1 and the links weigh grams, so each joint obeys dv/dt = 200 u - v with u
    clamped to [-1, 1]; solved exactly for a constant u. The links' own inertia is left out.
    """
    decay = float(np.exp(-STEP))
    drive = GEAR * action.clamp(-1.0, 1.0)
    new_speed = speed * decay + drive * (1 - decay)
    new_angle = angle + speed * (1 - decay) + drive * (STEP - (1 - decay))
    return new_angle, new_speed


def observe(angle: Tensor, speed: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Reacher-v4's 11 observations (B, 11) and the vector from the target to the fingertip (B, 2)."""
    both = angle.sum(1)
    tip = torch.stack(
        [
            LINKS[0] * angle[:, 0].cos() + LINKS[1] * both.cos(),
            LINKS[0] * angle[:, 0].sin() + LINKS[1] * both.sin(),
        ],
        dim=1,
    )
    gap = tip - target
    return torch.cat([angle.cos(), angle.sin(), target, speed, gap, torch.zeros_like(gap[:, :1])], 1), gap


def starts(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Start angles, speeds and targets as Reacher draws them (targets uniform in a disc, radius 0.2)."""
    angle = (torch.rand(batch, 2, generator=generator) - 0.5) * 0.2
    speed = (torch.rand(batch, 2, generator=generator) - 0.5) * 0.01
    radius = 0.2 * torch.rand(batch, generator=generator).sqrt()
    turn = 2 * torch.pi * torch.rand(batch, generator=generator)
    return angle, speed, torch.stack([radius * turn.cos(), radius * turn.sin()], 1)


def train(
    seed: int,
    noise_std: tuple[float, float],
    action_cost: float = 1.0,
    iterations: int = 800,
    hidden: tuple[int, ...] = (64, 64),
    batch: int = 256,
    lr: float = 3e-3,
    report: Callable[[int, float], None] | None = None,
) -> Policy:
    """Minimise sum_t |tip - target| + action_cost |u_t|^2 over 50 steps, exploration noise in the loop.

    The noise is drawn outside the gradient: u_t = mu(s_t) + noise. Adam, cosine rate, 64-64 tanh units.
    """
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    first = Policy.new(11, hidden, 2, rng)
    scale = np.array([1, 1, 1, 1, 0.1, 0.1, 5, 5, 0.1, 0.1, 1.0])  # brings every observation to order one
    params = [nn.Parameter(torch.tensor(a, dtype=torch.float32)) for a in (*first.weights, *first.biases)]
    depth = len(first.weights)
    optimiser = torch.optim.Adam(params, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    divide, std = torch.tensor(scale, dtype=torch.float32), torch.tensor(noise_std, dtype=torch.float32)
    for i in range(iterations):
        angle, speed, target = starts(batch, generator)
        cost = torch.zeros(())
        for _ in range(50):
            obs, gap = observe(angle, speed, target)
            x = obs / divide
            for k in range(depth):
                x = nn.functional.linear(x, params[k], params[depth + k])
                x = x if k == depth - 1 else x.tanh()
            action = x + std * torch.randn(batch, 2, generator=generator)
            distance = (gap.square().sum(1) + 1e-6).sqrt()  # the root's slope must stay finite at the target
            cost = cost + (distance + action_cost * x.square().sum(1)).mean()
            angle, speed = arm_step(angle, speed, action)
        optimiser.zero_grad()
        cost.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        schedule.step()
        if report is not None:
            report(i, -float(cost.detach()))
    arrays = [p.detach().double().numpy() for p in params]
    return Policy(tuple(arrays[:depth]), tuple(arrays[depth:]), np.zeros(11), scale)
