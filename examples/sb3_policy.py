"""The policy of Stable-Baselines3: python examples/sb3_policy.py.

Its forward pass samples an action. What counts as the prediction is the mean of its distribution, which the layer
`action_net` puts out; asking for deterministic=True makes the network give it.
"""

import sys

import numpy as np
import torch

import nrc


def main() -> nrc.CollapseMonitor:
    import gymnasium
    from stable_baselines3 import PPO

    env = gymnasium.make("Pendulum-v1")
    agent = PPO("MlpPolicy", env, seed=0, device="cpu")
    rng = np.random.default_rng(0)
    observations = torch.from_numpy(rng.normal(size=(512, 3)).astype("f4"))
    expert = -observations[:, 1:2]
    optimiser = torch.optim.SGD(agent.policy.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(200):  # behavioural cloning
        mean = agent.policy.get_distribution(observations).distribution.mean
        loss = (mean - expert).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    layers = ["mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net"]
    # the policy puts out actions, values and log probabilities
    monitor = nrc.CollapseMonitor(agent.policy, layers=layers, head="action_net", output=0)
    monitor.measure([({"obs": observations, "deterministic": True}, expert)])
    return monitor


if __name__ == "__main__":
    try:
        print(main())
    except ImportError as error:
        sys.exit(f"skipped: {error}; pip install stable-baselines3 gymnasium")
