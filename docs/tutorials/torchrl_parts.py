"""SAC and PPO from TorchRL's parts, with an actor that has an entropy floor."""

# --8<-- [start:actor]
import torch
from torchrl.collectors import Collector
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import GymEnv
from torchrl.modules import MLP, ValueOperator
from torchrl.objectives import ClipPPOLoss, SoftUpdate
from torchrl.objectives.value import GAE

from era_rl.core import OnPolicyOptions, PolicyOptions
from era_rl.torchrl import ERAActor, SACERALoss, raw_dim

torch.manual_seed(0)
env = GymEnv("Pendulum-v1")
actor = ERAActor(
    MLP(out_features=raw_dim(env.action_spec), num_cells=[64, 64]),
    env.action_spec,  # bounds of [-2, 2]; the floor is that of the action normalised to [-1, 1]
    PolicyOptions(target_entropy=-0.5),
)
# --8<-- [end:actor]

# --8<-- [start:sac]
critic = ValueOperator(MLP(out_features=1, num_cells=[64, 64]), ["observation", "action"])
critic(actor(env.reset()))  # fixes the sizes of the networks' first layers
loss = SACERALoss(actor, critic)  # no temperature: neither loss_alpha nor alpha
target = SoftUpdate(loss, tau=0.005)
optimizer = torch.optim.Adam(loss.parameters(), 1e-3)
buffer = ReplayBuffer(storage=LazyTensorStorage(10_000), batch_size=64)
for data in Collector(env, actor, frames_per_batch=64, total_frames=320):
    buffer.extend(data.reshape(-1))
    losses = loss(buffer.sample())
    sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
    optimizer.step()
    optimizer.zero_grad()
    target.step()

with torch.no_grad():
    entropy = actor.entropy(buffer[:])  # on every state visited
assert entropy.min() >= actor.target_entropy - 1e-5
# --8<-- [end:sac]

# --8<-- [start:ppo]
policy = ERAActor(
    MLP(out_features=raw_dim(env.action_spec), num_cells=[64, 64]),
    env.action_spec,
    OnPolicyOptions(),  # the default floor of PPO, -0.3 nats a dimension
    return_log_prob=True,
)
value = ValueOperator(MLP(out_features=1, num_cells=[64, 64]), ["observation"])
value(policy(env.reset()))
advantage = GAE(gamma=0.99, lmbda=0.95, value_network=value)
clipped = ClipPPOLoss(policy, value, entropy_bonus=False)  # TorchRL's own loss
optimizer = torch.optim.Adam(clipped.parameters(), 3e-4)
for data in Collector(env, policy, frames_per_batch=128, total_frames=256):
    for _ in range(4):
        advantage(data)
        losses = clipped(data.reshape(-1))
        (losses["loss_objective"] + losses["loss_critic"]).backward()
        optimizer.step()
        optimizer.zero_grad()
with torch.no_grad():
    assert policy.entropy(data).min() >= -0.3 - 1e-5
# --8<-- [end:ppo]
