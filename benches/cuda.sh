#!/usr/bin/env bash
# Everything that wants a real NVIDIA card, on a machine that has nothing but its driver.
#
#   benches/cuda.sh prepare DIR [CAPABILITY]    here: the program, its kernels and small models to DIR (under 64 MB)
#   DIR/cuda.sh run OUT [PART...]               there: checks and benchmarks; OUT/results.tgz has everything as JSON
#
# Parts: checks, realtime, live, speak, chat, windows; all of them unless some are named, as where a command may take ten minutes. WORK (a folder, else a temporary one) holds models
# of full size with random weights, which are made there; LIMIT is the seconds that one measurement may take (240).
set -uo pipefail

say() { printf '\n== %s (%ss)\n' "$1" "$SECONDS" >&2; }

prepare() {
    set -e
    local to=$1 capability=${2:-9.0} source
    source=$(cd "$(dirname "$0")/.." && pwd)
    mkdir -p "$to/models"
    to=$(cd "$to" && pwd)
    (cd "$source" && cargo build --release -p turaco-cli)
    cp "${CARGO_TARGET_DIR:-$source/target}/release/turaco" "$to/turaco"
    strip "$to/turaco" 2>/dev/null || true
    # It takes minutes, the first time; packed they are a third of the size.
    local kernels=${CARGO_TARGET_DIR:-$source/target}/kernels-for-cards
    XDG_CACHE_HOME="$kernels/cache" "$to/turaco" doctor --compile-kernels "$capability"
    tar -C "$kernels" -czf "$to/cache.tgz" cache
    for name in voxtral-realtime-tiny voxtral-mini-tiny qwen3-tts-tiny; do
        [ -e "$to/models/$name" ] || "$to/turaco" -q models random "$name" "$to/models/$name" >&2
    done
    cp -r "$source/testdata/whisper/tiny-random" "$to/models/"
    cp "$source/testdata/audio/jfk.wav" "$to/speech.wav"
    cp "$source/testdata/audio/5s_dont_worry_about_him.wav" "$to/short.wav"
    cp "$source/benches/cuda.sh" "$to/cuda.sh"
    du -sh "$to"
}

# A number of four bytes, the lowest first.
number() {
    local byte value=$1
    for byte in 0 8 16 24; do
        # shellcheck disable=SC2059 # the text is the escape
        printf "\\x$(printf %02x $((value >> byte & 255)))"
    done
}

# The speech over and over, so many seconds of it: 16-bit samples at 16 kHz behind a header.
long_speech() {
    local to=$2 bytes=$(($1 * 32000))
    {
        printf RIFF
        number $((36 + bytes))
        printf 'WAVEfmt \x10\0\0\0\1\0\1\0'
        number 16000
        number 32000
        printf '\2\0\x10\0data'
        number $bytes
        # Its last eleven seconds are samples.
        while tail -c 352000 "$here/speech.wav"; do :; done 2>/dev/null | head -c $bytes
    } >"$to"
}

# What is there so far in one file: a run may be ended from outside.
keep() { tar -C "$all" -czf "$out/results.tgz.new" . && mv "$out/results.tgz.new" "$out/results.tgz"; }

# The same work on the card and on the processor must give the same text; samples of sound may be rounded to their neighbours.
compare() {
    local name=$1 device works=true bytes other
    shift
    for device in cuda cpu; do
        timeout "$limit" "$here/turaco" -q --device "$device" --compute-type f32 "$@" >"$all/$name.$device" 2>"$all/$name.$device.err" ||
            works=false
        [ -s "$all/$name.$device" ] || works=false
    done
    bytes=$(wc -c <"$all/$name.cpu")
    other=$(cmp -l "$all/$name.cuda" "$all/$name.cpu" 2>&1 | wc -l)
    echo "{\"comparison\": \"$name\", \"works\": $works, \"bytes\": $bytes, \"that_differ\": $other}" | tee -a "$all/comparisons.jsonl"
    keep
}

# A benchmark whose failure does not end the others.
measure() {
    local name=$1 code
    shift
    say "$name"
    timeout "$limit" "$here/turaco" -q --device cuda "$@" --json >"$all/$name.json" 2>"$all/$name.err"
    code=$?
    [ $code = 0 ] || echo "{\"failed\": \"$name\", \"code\": $code}" | tee -a "$all/failed.jsonl"
    keep
}

# A model of full size with random weights, once; its path is in `path`.
model() {
    path=$work/$1
    [ -e "$path/done" ] && return
    say "random weights: $1"
    rm -rf "$path"
    "$here/turaco" -q models random "$1" "$path" >&2 && touch "$path/done"
}

checks() {
    say "every operation beside the processor"
    timeout "$limit" "$here/turaco" doctor --json >"$all/doctor.json" 2>"$all/doctor.err" || echo '{"failed": "doctor"}' | tee -a "$all/failed.jsonl"
    keep
    say "models beside the processor"
    local models=$here/models
    compare whisper transcribe -m "$models/tiny-random" --language en --beam-size 1 --temperature 0 "$here/speech.wav"
    compare voxtral-realtime transcribe -m "$models/voxtral-realtime-tiny" "$here/speech.wav"
    compare voxtral-mini transcribe -m "$models/voxtral-mini-tiny" "$here/speech.wav"
    compare qwen3-tts speak -m "$models/qwen3-tts-tiny" --temperature 0 --format pcm -o - "One, two, three."
}

realtime() {
    local weights
    model voxtral-realtime || return
    for weights in bf16 q8 q4; do
        measure "voxtral-realtime-$weights" --compute-type "$weights" bench -m "$path" -n 5 "$here/speech.wav"
    done
    measure voxtral-realtime-long --compute-type bf16 bench -m "$path" --positions 100,8000
    long_speech 30 "$work/half_a_minute.wav"
    measure voxtral-realtime-30s --compute-type bf16 bench -m "$path" -n 5 "$work/half_a_minute.wav"
}

live() {
    local sessions
    model voxtral-realtime || return
    for sessions in 1 8 32 64 128 200 256; do
        measure "voxtral-realtime-live-$sessions" --compute-type q8 bench -m "$path" -n 1 --warm-up 0 --live --sessions "$sessions" "$here/speech.wav"
    done
}

speak() {
    local size weights
    for size in 0.6b 1.7b; do
        model "qwen3-tts-$size-customvoice" || continue
        for weights in bf16 q8; do
            measure "qwen3-tts-$size-$weights" --compute-type "$weights" bench -m "$path" -n 5
        done
    done
}

chat() {
    local weights
    model voxtral-mini || return
    for weights in bf16 q4; do
        measure "voxtral-mini-$weights" --compute-type "$weights" bench -m "$path" -n 5 "$here/short.wav"
    done
    long_speech 30 "$work/half_a_minute.wav"
    measure voxtral-mini-30s --compute-type bf16 bench -m "$path" -n 5 "$work/half_a_minute.wav"
}

# Sixteen windows of half a minute at a time. What random weights say has no end of its own: as many tokens as people say.
windows() {
    local weights
    model whisper-large-v3-turbo || return
    long_speech 480 "$work/eight_minutes.wav"
    for weights in bf16 q8; do
        measure "whisper-turbo-16-$weights" --compute-type "$weights" bench -m "$path" -n 3 --language en --batch-size 16 \
            --beam-size 1 --temperature 0 --max-new-tokens 100 "$work/eight_minutes.wav"
    done
}

run() {
    here=$(cd "$(dirname "$0")" && pwd)
    mkdir -p "$1"
    out=$(cd "$1" && pwd)
    shift
    limit=${LIMIT:-240}
    work=${WORK:-$(mktemp -d)}
    all=$(mktemp -d)
    mkdir -p "$work"
    tar -C "$work" -xzf "$here/cache.tgz"
    export XDG_CACHE_HOME="$work/cache"
    "$here/turaco" --version || {
        ldd "$here/turaco"
        exit 3
    }
    if [ -z "${TURACO_NVRTC:-}" ]; then
        TURACO_NVRTC=$(find /usr/local /usr/lib /opt -name 'libnvrtc.so.1[23]' 2>/dev/null | head -n 1)
        [ -z "$TURACO_NVRTC" ] || export TURACO_NVRTC
    fi
    nvidia-smi --query-gpu=name,memory.total,driver_version,clocks.max.mem --format=csv >"$all/card.csv" 2>&1 || true
    local part
    for part in ${@:-checks realtime live speak chat windows}; do
        case $part in
            checks | realtime | live | speak | chat | windows) "$part" ;;
            *) echo "no part $part" >&2 ;;
        esac
    done
    keep
    say "done: $out/results.tgz"
}

case "${1:-}" in
    prepare) prepare "${2:?where to}" "${3:-}" ;;
    run)
        shift
        run "${1:?where to write}" "${@:2}"
        ;;
    *)
        sed -n '2,8s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
esac
