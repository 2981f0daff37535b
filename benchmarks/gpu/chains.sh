#!/usr/bin/env bash
# chains.sh KIT OUT WORK ENV: all of everything.py, with steps beside each other where none of them times anything.
# ENV is the shell file of the Python that has TensorRT; both it and ENV.ready may come later than this script is started.
# OUT/PHASE/gpu.json has what each chain found; OUT/phases says when each began.
set -uo pipefail
kit=$1 out=$2 work=$3 env=$4
mkdir -p "$out" "$work"
cd "$(dirname "$0")/../.."

steps() {  # steps NAME SECONDS PATTERN...: these steps one after the other, found in OUT/NAME/gpu.json
    local name=$1 limit=$2 only=() trt=()
    shift 2
    for pattern in "$@"; do only+=(--only "$pattern"); done
    [ -f "$env" ] && trt=(--tensorrt "$env")
    PYTHONPATH=.:${PYTHONPATH:-} python3 benchmarks/gpu/everything.py "$kit" --out "$out/$name" --work "$work" \
        "${trt[@]}" --limit "$limit" --duration 0.5 "${only[@]}" >>"$out/$name.log" 2>&1
}
phase() { echo "$SECONDS s  $1" >>"$out/phases"; }

phase "alone: prune lite2"
steps prune 120 "lite2: prune" "lite2: export"
phase "waiting for TensorRT"
until [ -f "$env.ready" ]; do sleep 0.2; done
export OMP_NUM_THREADS=4 OPENBLAS_NUM_THREADS=4

phase "beside each other: engines of lite2; resnet50 and vit_small pruned and exported"
steps engines 170 "lite2: fp16 engines" "lite2: int8 engines" &
steps pruned 170 "resnet50: prune" "resnet50: export" "vit_small: prune" "vit_small: export" &
wait

phase "alone: time lite2"
steps timed-lite2 40 "lite2: latency*"

phase "beside each other: engines of resnet50; of lite2 in fp32 and vit_small; damaged engines, tests of engines"
steps engines-resnet50 120 "resnet50: fp16 engines" "resnet50: int8 engines" &
steps engines-more 120 "vit_small: fp16 engines" "lite2: fp32 engines" "lite2: engines that are*" "tests of engines*" &
wait

phase "alone: time everything"
steps timed 60 "lite2: latency of engines" "resnet50: latency*" "vit_small: latency*"

phase "alone: profiles"
steps profile 300 "profile: ONNX*" "profile: T*" "profile: prune*" "profile: latency*"

phase "the tests"
steps tests 300 "tests marked gpu"
phase "done"
