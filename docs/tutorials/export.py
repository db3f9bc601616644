"""Export a policy with its normalisation, and run it without torch. A first look in seconds."""

# --8<-- [start:export]
import json
from pathlib import Path

import numpy as np
import onnxruntime
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from era_rl import PPOERA
from era_rl.sb3.export import export_policy

env = VecNormalize(make_vec_env("Pendulum-v1", seed=0))
model = PPOERA("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=2, seed=0, device="cpu")
model.learn(128)
difference = export_policy(model, "policy.onnx")  # from predict's actions, on random observations
assert difference < 1e-4  # of half the range; above it nothing is written
# --8<-- [end:export]

# --8<-- [start:run]
session = onnxruntime.InferenceSession("policy.onnx")
observations = np.float32([[1.0, 0.0, 0.0], [-1.0, 0.0, 2.0]])  # as the environment gives them
(actions,) = session.run(["action"], {"obs": observations})
described = json.loads(Path("policy.onnx.json").read_text())
assert described["outputs"][0]["high"] == [2.0]  # torque, within the environment's bounds
expected, _ = model.predict(env.normalize_obs(observations), deterministic=True)
assert np.allclose(actions, expected, atol=1e-4)
# --8<-- [end:run]

# --8<-- [start:sampled]
export_policy(model, "sampled.onnx", stochastic=True)
session = onnxruntime.InferenceSession("sampled.onnx")
noise = np.random.default_rng(0).random((2, 1), dtype=np.float32)  # one number an action dimension
(actions,) = session.run(["action"], {"obs": observations, "noise": noise})
assert (np.abs(actions) <= 2.0).all()
# --8<-- [end:sampled]
