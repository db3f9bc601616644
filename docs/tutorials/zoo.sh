#!/usr/bin/env bash
# Train with era-zoo. Tiny settings: a first look in seconds.
set -eu

# --8<-- [start:train]
era-zoo train --algo sac_era --env Pendulum-v1 -n 300 --eval-freq 200 --eval-episodes 1 \
    --params learning_starts=100 "policy_kwargs={net_arch: [64, 64]}" --threads 1
# --8<-- [end:train]

run=logs/sac_era/Pendulum-v1_1
test -f "$run/Pendulum-v1.zip"
test -f "$run/Pendulum-v1/config.yml"
test -f "$run/evaluations.npz"
