"""Three agents, from SAC's networks to XQC's, with the same floor. A first look in seconds."""

# --8<-- [start:sacera]
from era_rl import SACERA, XQCERA
from era_rl.sb3 import EntropyMonitor

ENV = "Pendulum-v1"  # "era_rl.envs:dm_control/dog-walk-v0": hours

model = SACERA("MlpPolicy", ENV, learning_starts=100)
# --8<-- [end:sacera]
plain = model

# --8<-- [start:simba]
model = SACERA("SimbaPolicy", ENV, learning_starts=100, gradient_steps=2)
# --8<-- [end:simba]
simba = model

# --8<-- [start:xqcera]
model = XQCERA("MlpPolicy", ENV, learning_starts=100)  # 5000 by default
monitor = EntropyMonitor(check_freq=20)
model.learn(120, callback=monitor)
assert monitor.minimum >= model.target_entropy  # in every state that it looked at
# --8<-- [end:xqcera]

for each in (plain, simba):
    monitor = EntropyMonitor(check_freq=20)
    each.learn(120, callback=monitor)
    assert monitor.minimum >= each.target_entropy
assert simba.policy.actor.features_extractor.norm.count == 120
