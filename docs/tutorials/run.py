"""Train, go on and load from Python as era-zoo does from the command line. A first look in seconds."""

# --8<-- [start:train]
from era_rl.sb3 import EntropyMonitor
from era_rl.sb3.run import Run

run = Run(
    "sac_era",
    "Pendulum-v1",
    {"policy": "MlpPolicy", "n_timesteps": 200, "learning_starts": 100},  # None: the zoo's settings
    seed=1,
    eval_freq=200,
    eval_episodes=1,
)
model = run.train("runs/pendulum", [EntropyMonitor(check_freq=100)])
# --8<-- [end:train]

# --8<-- [start:load]
model = Run.resume("runs/pendulum")  # after a kill; of a run that has ended, its agent
agent, env = Run.load("runs/pendulum", best=True)
actions, _ = agent.predict(env.reset(), deterministic=True)
# --8<-- [end:load]

assert actions.shape == (1, 1)
assert model.num_timesteps == 200
