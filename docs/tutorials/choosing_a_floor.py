"""Choosing a floor: begin at the default, read its price, take a schedule, watch each dimension."""

# --8<-- [start:price]
import gymnasium
import numpy as np
from stable_baselines3.common.logger import configure

from era_rl import PPOERA, SACERA, EntropyMonitor, EntropySchedule

env = gymnasium.make("Pendulum-v1", max_episode_steps=50)
model = SACERA("MlpPolicy", env, learning_starts=100, seed=0)  # -0.5 nats per action dimension
model.set_logger(configure("default", ["csv"]))
model.learn(400, log_interval=1)  # for a real reading: most of a training
model.logger.close()

log = np.genfromtxt("default/progress.csv", delimiter=",", names=True)
price = log["trainentropy_price"][-1]  # return per nat of H0, the mean since the line before
assert np.isfinite(price)
assert 0.1 < log["trainstd"][-1] < 0.3  # sigma, of actions normalised to [-1, 1]
# --8<-- [end:price]

# --8<-- [start:schedule]
schedule = EntropySchedule(
    0.0, -1.5, end_fraction=0.5
)  # nats per dimension, down by half of the run
model = SACERA("MlpPolicy", env, nats_per_dim=schedule, learning_starts=100, seed=0)
assert model.target_entropy == 0.0
monitor = EntropyMonitor(check_freq=100, csv_path="entropy.csv")
model.learn(400, callback=monitor)
assert model.target_entropy == -1.5  # from step 200 on
assert monitor.margin >= 0.0  # each state has at least the floor in force when it was met

model.target_entropy = -1.0  # or by hand, at any time; it ends the schedule
# --8<-- [end:schedule]

# --8<-- [start:dimensions]
arm = gymnasium.make("Reacher-v5")
options = {"nats_per_dim": -0.5, "min_entropy_per_dim": -1.5}  # nats, of the sum's mean and of each
model = PPOERA("MlpPolicy", arm, n_steps=128, batch_size=64, seed=0, **options)
monitor = EntropyMonitor(check_freq=128, csv_path="dimensions.csv", per_dim=True)
model.learn(256, callback=monitor)
row = monitor.rows[-1]
assert min(row.entropy_0, row.entropy_1) >= -1.5
assert row.std_min <= min(row.std_0, row.std_1)
# --8<-- [end:dimensions]
