#!/usr/bin/env bash
# Train, evaluate and resume with era-zoo. Tiny settings: a first look in seconds.
set -eu

# --8<-- [start:train]
era-zoo train --algo sac_era --env Pendulum-v1 -n 600 --eval-freq 400 --eval-episodes 2 \
    --params learning_starts=200 "policy_kwargs={net_arch: [64, 64]}" --num-threads 1
# --8<-- [end:train]

# --8<-- [start:evaluate]
era-zoo evaluate --algo sac_era --env Pendulum-v1 --episodes 3
# --8<-- [end:evaluate]

run=logs/sac_era/Pendulum-v1_1
test -f "$run/Pendulum-v1.zip"
test -f "$run/Pendulum-v1/config.yml"
test -f "$run/evaluations.npz"
