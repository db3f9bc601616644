"""Trainings on the toy task, of a second or less."""

from era_rl.torchrl.config import PPOConfig, SACConfig

COMMON = {"env": "Toy-v0", "n_envs": 2, "eval_episodes": 2, "progress": False}
SAC = SACConfig(
    **COMMON,
    steps=40,
    hidden=(16, 16),
    learning_starts=10,
    batch_size=16,
    buffer_size=30,  # the ring is overwritten
    log_freq=20,
)
PPO = PPOConfig(**COMMON, steps=64, steps_per_batch=16, minibatches=4, epochs=2)
