#!/usr/bin/env bash
# Everything that wants a real NVIDIA card, in one call on a machine that has nothing but its driver.
#
#   benches/cuda.sh prepare DIR [CAPABILITY]   here: the program, its kernels and small models to DIR (under 64 MB)
#   DIR/cuda.sh run OUT [small]                there: checks and benchmarks, as JSON in OUT; `small`: without models of full size
set -euo pipefail

say() { printf '\n== %s (%ss)\n' "$1" "$SECONDS" >&2; }

prepare() {
    local to=$1 capability=${2:-9.0} source
    source=$(cd "$(dirname "$0")/.." && pwd)
    mkdir -p "$to"
    to=$(cd "$to" && pwd)
    (cd "$source" && cargo build --release -p turaco-cli)
    cp "${CARGO_TARGET_DIR:-$source/target}/release/turaco" "$to/turaco"
    strip "$to/turaco" 2>/dev/null || true
    XDG_CACHE_HOME="$to/cache" "$to/turaco" doctor --compile-kernels "$capability"
    for name in voxtral-realtime-tiny voxtral-mini-tiny qwen3-tts-tiny; do
        [ -e "$to/models/$name" ] || "$to/turaco" -q models random "$name" "$to/models/$name"
    done
    cp -r "$source/testdata/whisper/tiny-random" "$to/models/"
    cp "$source/testdata/audio/jfk.wav" "$to/speech.wav"
    cp "$source/benches/cuda.sh" "$to/cuda.sh"
    du -sh "$to"
}

# The same work on the card and on the processor must give the same results.
compare() {
    local name=$1
    shift
    for device in cuda cpu; do
        "$here/turaco" -q --device "$device" --compute-type f32 "$@" >"$out/$name.$device.txt" || echo "exit code $?" >>"$out/$name.$device.txt"
    done
    local same=false
    cmp -s "$out/$name.cuda.txt" "$out/$name.cpu.txt" && same=true
    echo "{\"comparison\": \"$name\", \"same\": $same}" | tee -a "$out/comparisons.jsonl"
}

# A benchmark whose failure does not end the others.
measure() {
    local name=$1
    shift
    say "$name"
    "$here/turaco" -q --device cuda "$@" --json >"$out/$name.json" || echo "{\"failed\": \"$name\", \"code\": $?}" | tee "$out/$name.json"
}

# A model of full size with random weights, once.
model() {
    [ -e "$out/models/$1" ] || "$here/turaco" -q models random "$1" "$out/models/$1"
    echo "$out/models/$1"
}

run() {
    here=$(cd "$(dirname "$0")" && pwd)
    out=$1
    mkdir -p "$out/models"
    export XDG_CACHE_HOME="$here/cache"
    command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,memory.total,driver_version,clocks.max.mem --format=csv | tee "$out/card.csv"

    say "every operation beside the processor"
    "$here/turaco" doctor --json >"$out/doctor.json" || echo "{\"failed\": \"doctor\", \"code\": $?}" | tee -a "$out/comparisons.jsonl"

    say "models beside the processor"
    compare whisper transcribe -m "$here/models/tiny-random" --language en --beam-size 1 --temperature 0 "$here/speech.wav"
    compare voxtral-realtime transcribe -m "$here/models/voxtral-realtime-tiny" "$here/speech.wav"
    compare voxtral-mini transcribe -m "$here/models/voxtral-mini-tiny" "$here/speech.wav"
    [ "${2:-}" = small ] && return

    local weights path
    path=$(model voxtral-realtime)
    for weights in bf16 q8 q4; do
        measure "voxtral-realtime-$weights" --compute-type "$weights" bench -m "$path" -n 5 "$here/speech.wav"
    done
    measure voxtral-realtime-live --compute-type q8 bench -m "$path" --live --sessions 1,8,32,64,128,200 "$here/speech.wav"
    measure voxtral-realtime-long --compute-type bf16 bench -m "$path" --positions 100,8000
    rm -rf "$path"
    for weights in 0.6b 1.7b; do
        path=$(model "qwen3-tts-$weights-customvoice")
        measure "qwen3-tts-$weights-bf16" --compute-type bf16 bench -m "$path" -n 5
        measure "qwen3-tts-$weights-q8" --compute-type q8 bench -m "$path" -n 5
        rm -rf "$path"
    done
    path=$(model voxtral-mini)
    measure voxtral-mini-bf16 --compute-type bf16 bench -m "$path" -n 5 "$here/speech.wav"
    measure voxtral-mini-q4 --compute-type q4 bench -m "$path" -n 5 "$here/speech.wav"
    rm -rf "$path"
    say "done"
}

case "${1:-}" in
    prepare) prepare "${2:?where to}" "${3:-}" ;;
    run) run "${2:?where to write}" "${3:-}" ;;
    *)
        sed -n '2,6s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac
