#!/usr/bin/env bash
# A recurrent policy of sb3-contrib with an LSTM of another size saves without a word and cannot be loaded.
#
# Versions: sb3-contrib 2.9.2, stable-baselines3 2.9.2, gymnasium 1.4.0, torch 2.15.0; Python 3.11.
# Behaviour: policy.save writes the constructor's arguments beside the weights, and policy.load builds the policy
#   of them. RecurrentActorCriticPolicy does not add its own (lstm_hidden_size, n_lstm_layers, shared_lstm,
#   enable_critic_lstm, lstm_kwargs): a policy of 64 units is rebuilt with 256 and its weights do not fit. Every
#   other policy of SB3 and sb3-contrib comes back; the whole model, model.save, does too, so it is noticed
#   when the policy alone is needed, on the robot say.
# Guess: what policy.save has written, policy.load reads.
# Seen: MlpPolicy of 32 units: loaded
#       MlpLstmPolicy of 256 units: loaded
#       MlpLstmPolicy of 64 units: size mismatch
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python \
    "sb3-contrib==2.9.2" "stable-baselines3==2.9.2" "gymnasium==1.4.0" "torch==2.15.0"

cat > save.py <<'PYTHON'
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO


def trial(name, algorithm, policy, units, **policy_kwargs):
    """Save a policy and load it by its own class."""
    policy_object = algorithm(policy, "CartPole-v1", policy_kwargs=policy_kwargs).policy
    policy_object.save("policy.zip")
    try:
        type(policy_object).load("policy.zip")
        result = "loaded"
    except RuntimeError as error:
        result = "size mismatch" if "size mismatch" in str(error) else repr(error)
    print(f"{name} of {units} units: {result}")


trial("MlpPolicy", PPO, "MlpPolicy", 32, net_arch=[32])
trial("MlpLstmPolicy", RecurrentPPO, "MlpLstmPolicy", 256)
trial("MlpLstmPolicy", RecurrentPPO, "MlpLstmPolicy", 64, lstm_hidden_size=64)
PYTHON
env/bin/python -W ignore save.py | tee seen.txt

diff seen.txt - <<'EXPECTED'
MlpPolicy of 32 units: loaded
MlpLstmPolicy of 256 units: loaded
MlpLstmPolicy of 64 units: size mismatch
EXPECTED
