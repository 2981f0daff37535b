#!/usr/bin/env bash
# The main job on real images: a bank of eight 5-class CIFAR-100 tasks, then a new task pruned by votes, exported, timed.
#   benchmarks/main_job/run.sh BACKBONE IMAGE_SIZE CIFAR.npz OUT [steps [round-steps]]
# Classes 0-39 pretrain the backbone, 40-79 are the bank's, 80-84 the new task's: nobody sees another's classes.
set -euo pipefail
backbone=$1 size=$2 data=$3 out=$4 steps=${5:-150}
here=$(dirname "$0")
mkdir -p "$out"
classes() { python -c "import sys, numpy; print(','.join(numpy.load(sys.argv[1])['classes'][$1:$1+5]))" "$data"; }

[ -f "$out/weights.safetensors" ] || python "$here/pretrain.py" "$backbone" "$data" "$out/weights.safetensors" --classes 0:40 --image-size "$size"
[ -f "$out/bank/bank.json" ] || mvp-deploy bank init "$out/bank" --backbone "$backbone" --weights "$out/weights.safetensors" --image-size "$size"
for first in 40 45 50 55 60 65 70 75; do
  spec="$data#$(classes $first)"
  mvp-deploy bank show "$out/bank" "$spec" >/dev/null 2>&1 ||
    mvp-deploy bank add "$out/bank" "$spec" --keep 0.3 --steps "$steps" --rounds 4 --round-steps "${6:-60}" --flip
done
mvp-deploy bank list "$out/bank"
mvp-deploy prune "$data#$(classes 80)" --bank "$out/bank" --keep 0.3 --steps "$steps" --flip --out "$out/run"
mvp-deploy export "$out/run" --out "$out/bundle"
mvp-deploy bench "$out/bundle" --batch 1,32 --json >"$out/bench.json"
