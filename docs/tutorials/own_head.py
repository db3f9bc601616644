"""A head of one's own: a hand with a continuous arm and a discrete grip under one entropy floor."""

# --8<-- [start:head]
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from era_rl.core import CategoricalHead, TruncatedGaussianHead, TruncatedNormal


class HandPolicy(nn.Module):
    """A policy over an arm in [-1, 1]^arm_dim and one of several grips, H >= H_arm + H_grip.

    The two are independent given the state, so that their entropies, and their floors, add up.

    Args:
        obs_dim: Length of an observation.
        arm_dim: Dimensions of the arm's action.
        grips: Number of grips.
        arm_nats: Floor of the arm, over all its dimensions.
        grip_nats: Floor of the grip.
    """

    def __init__(self, obs_dim: int, arm_dim: int, grips: int, arm_nats: float, grip_nats: float):
        super().__init__()
        self.arm = TruncatedGaussianHead(arm_dim, target_entropy=arm_nats, slack=0.1)
        self.grip = CategoricalHead(grips, target_entropy=grip_nats)
        self.network = nn.Sequential(
            nn.Linear(obs_dim, 64), nn.Tanh(), nn.Linear(64, self.arm.raw_dim + grips)
        )

    def forward(self, obs: Tensor) -> tuple[TruncatedNormal, Categorical]:
        """Return the distributions of arm and grip at observations (..., obs_dim)."""
        raw = self.network(obs)
        loc, scale = self.arm(raw[..., : self.arm.raw_dim])
        logits = self.grip(raw[..., self.arm.raw_dim :])
        return TruncatedNormal(loc, scale), Categorical(logits=logits)

    def entropy(self, obs: Tensor) -> Tensor:
        """Return the policy's entropy in nats, shape (...)."""
        arm, grip = self(obs)
        return arm.entropy() + grip.entropy()

    @property
    def target_entropy(self) -> float:
        """The floor in nats."""
        return self.arm.target_entropy + self.grip.target_entropy


# --8<-- [end:head]

# --8<-- [start:test]
torch.manual_seed(0)
policy = HandPolicy(obs_dim=8, arm_dim=4, grips=3, arm_nats=-2.0, grip_nats=0.3)
lowest = policy.target_entropy - 1e-5  # float32 rounds at about 1e-6 a dimension

# at random observations, mild and extreme
for size in (0.1, 1.0, 1e3, 1e6):
    assert policy.entropy(size * torch.randn(1_000, 8)).min() >= lowest

# against an adversary: the weights themselves descend on the entropy
obs = torch.randn(256, 8)
optimizer = torch.optim.Adam(policy.parameters(), lr=0.1)
before = policy.entropy(obs).mean().item()
for _ in range(200):
    entropy = policy.entropy(obs)
    assert entropy.min() >= lowest
    optimizer.zero_grad()
    entropy.mean().backward()
    optimizer.step()
assert policy.entropy(obs).mean() < before  # it did come down, to the floor and no further
assert policy.entropy(obs).mean() - policy.target_entropy < 0.05
# --8<-- [end:test]
