#!/usr/bin/env bash
# One PPO expert by the published recipe: train_ppo.sh swimmer|reacher SEED [STEPS]. 10,000,000 steps are published.
# Sample Factory's MuJoCo settings are its defaults for these environments. The published runs had 8 workers of 8
# environments; here the same 64 environments live in one process, so the batches are the same and one core is busy.
set -euo pipefail
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
cd "${EXPERTS:-outputs/experts}"
name="$1_seed$2"
# checkpoints come and go while the run lasts: keep a copy of each new one every minute
keep() {
  mkdir -p "checkpoints/$name"
  for file in "train_dir/$name"/checkpoint_p0/checkpoint_*.pth; do
    [ -f "$file" ] && [ ! -f "checkpoints/$name/${file##*/}" ] && cp "$file" "checkpoints/$name/" || true
  done
}
while true; do keep; sleep 60; done &
trap 'kill %1; keep' EXIT
sf/bin/python -m sf_examples.mujoco.train_mujoco --env="mujoco_$1" --experiment="$name" --train_dir=train_dir \
  --device=cpu --seed="$2" --serial_mode=True --num_workers=1 --num_envs_per_worker=64 --worker_num_splits=2 \
  --async_rl=False --train_for_env_steps="${3:-10000000}"
