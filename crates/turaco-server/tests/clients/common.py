"""What the checks share."""

import base64
import os
import sys
import wave

# Chromium opens no path with `..` in it.
BASE, WYOMING_PORT, SPEECH = sys.argv[1], int(sys.argv[2]), os.path.realpath(sys.argv[3])
EXPECTED = "fellow americans"


def samples(rate):
    """The speech as 16-bit samples at `rate`, a multiple of its own or its own."""
    with wave.open(SPEECH) as file:
        assert file.getnchannels() == 1 and file.getsampwidth() == 2
        data, own = file.readframes(file.getnframes()), file.getframerate()
    if rate == own:
        return data
    values = [int.from_bytes(data[i : i + 2], "little", signed=True) for i in range(0, len(data), 2)]
    out = bytearray()
    for index in range(len(values) * rate // own):
        position = index * own / rate
        left = int(position)
        right = min(left + 1, len(values) - 1)
        value = values[left] + (values[right] - values[left]) * (position - left)
        out += int(value).to_bytes(2, "little", signed=True)
    return bytes(out)


def pieces(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


def encoded(data):
    return base64.b64encode(data).decode()


def seconds_of_wav(data):
    """Seconds of a WAV whose length may be unknown."""
    rate = int.from_bytes(data[24:28], "little")
    return (len(data) - 44) / 2 / rate


def check(condition, what):
    if not condition:
        raise SystemExit(f"FAILED: {what}")
