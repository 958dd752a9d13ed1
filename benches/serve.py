#!/usr/bin/env python3
"""How many live streams a server holds: the delay of their texts, what is lost, and the memory before, meanwhile and after.

    benches/serve.py target/release/turaco -m tiny.en --sessions 1,8,16,24
    benches/serve.py target/release/turaco -m voxtral-realtime --dialect vllm --sessions 1,8,32,64

Each session sends the recording in real time without a pause and ends an utterance every few seconds; sessions begin one after
the other within an utterance. Needs Linux, and nothing but Python.
"""
import argparse
import base64
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import wave

PIECE = 0.2
QUIET = 15


class Socket:
    """As much of a WebSocket as a client needs."""

    def __init__(self, port, path):
        self.stream = socket.create_connection(("127.0.0.1", port), timeout=600)
        key = base64.b64encode(os.urandom(16)).decode()
        self.stream.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        self.rest = b""
        while b"\r\n\r\n" not in self.rest:
            self.more()
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.splitlines()[0]:
            raise ConnectionError(head.decode())

    def more(self):
        got = self.stream.recv(65536)
        if not got:
            raise ConnectionError("the server closed the session")
        self.rest += got

    def take(self, count):
        while len(self.rest) < count:
            self.more()
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    def send(self, opcode, payload):
        mask, size = os.urandom(4), len(payload)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0xFE, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0xFF, size)
        stretched = (mask * (size // 4 + 1))[:size]
        hidden = int.from_bytes(payload, "big") ^ int.from_bytes(stretched, "big")
        self.stream.sendall(head + mask + hidden.to_bytes(size, "big"))

    def say(self, **event):
        self.send(1, json.dumps(event).encode())

    def hear(self):
        while True:
            first, size = self.take(2)
            if size == 126:
                (size,) = struct.unpack("!H", self.take(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self.take(8))
            payload = self.take(size)
            if first & 15 == 9:
                self.send(10, payload)
            elif first & 15 == 8:
                raise ConnectionError("the server ended the session")
            elif first & 15 in (1, 2):
                return json.loads(payload)


def session(args, sound, rate, wait, delays, errors):
    """Say utterances; how long each text took after the end of its sound."""
    try:
        openai = args.dialect == "openai"
        socket = Socket(args.port, "/v1/realtime?intent=transcription" if openai else "/v1/realtime?protocol=vllm")
        ended, heard = [], []

        def begin():
            if not openai:
                socket.say(type="input_audio_buffer.commit", final=False)

        if openai:
            audio = {"format": {"type": "audio/pcm", "rate": rate}, "turn_detection": None,
                     "transcription": {"model": args.model}}
            socket.say(type="session.update", session={"type": "transcription", "audio": {"input": audio}})
        else:
            socket.say(type="session.update", model=args.model)

        def listen():
            while len(heard) < args.utterances:
                event = socket.hear()
                if event["type"] == "error" or event["type"].endswith("failed"):
                    errors.append(event)
                if re.search(r"transcription\.(completed|done|failed)$", event["type"]):
                    heard.append(time.monotonic() - ended[len(heard)])

        listening = threading.Thread(target=listen, daemon=True)
        listening.start()
        time.sleep(wait)
        size, at, due = int(rate * PIECE) * 2, 0, time.monotonic()
        for _ in range(args.utterances):
            begin()
            for _ in range(round(args.seconds / PIECE)):
                piece = sound[at : at + size]
                at = (at + size) % (len(sound) - size)
                socket.say(type="input_audio_buffer.append", audio=base64.b64encode(piece).decode())
                due += PIECE
                time.sleep(max(0.0, due - time.monotonic()))
            ended.append(time.monotonic())
            if openai:
                socket.say(type="input_audio_buffer.commit")
            else:
                socket.say(type="input_audio_buffer.commit", final=True)
                # In this dialect the next utterance begins when the text of the last one is there.
                while len(heard) < len(ended) and listening.is_alive():
                    time.sleep(0.01)
                due = time.monotonic()
        listening.join(600)
        delays.extend(heard)
    except (OSError, ConnectionError) as error:
        errors.append(str(error))


def memory(process):
    status = open(f"/proc/{process.pid}/status").read()
    return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("turaco", help="the program")
    parser.add_argument("-m", "--model", default="tiny.en")
    parser.add_argument("--dialect", choices=["openai", "vllm"], default="openai")
    parser.add_argument("--sessions", default="1,8,32,64")
    parser.add_argument("--utterances", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0, help="of an utterance")
    default = os.path.join(os.path.dirname(__file__), "../testdata/audio/jfk.wav")
    parser.add_argument("--audio", default=default, help="mono WAV of 16 bits")
    args = parser.parse_args()
    with wave.open(args.audio) as file:
        rate, sound = file.getframerate(), file.readframes(file.getnframes())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        args.port = free.getsockname()[1]
    command = [args.turaco, "serve", "-m", args.model, "--preload", args.model, "--port", str(args.port),
               "--max-sessions", "1000", "--quiet"]
    process = subprocess.Popen(command)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", args.port)).close()
                break
            except OSError:
                if process.poll() is not None:
                    sys.exit("the server did not start")
                time.sleep(0.1)
        counts = [1] + [int(count) for count in args.sessions.split(",")]
        for index, count in enumerate(counts):
            delays, errors = [], []
            waits = [args.seconds * number / count for number in range(count)]
            threads = [threading.Thread(target=session, args=(args, sound, rate, wait, delays, errors)) for wait in waits]
            before = memory(process)
            for thread in threads:
                thread.start()
            peak = before
            while any(thread.is_alive() for thread in threads):
                peak = max(peak, memory(process))
                time.sleep(0.1)
            time.sleep(QUIET)
            if index == 0:
                # The first session of all loads what is loaded when it is needed.
                continue
            delays.sort()
            at = lambda share: delays[min(len(delays) - 1, int(share * len(delays)))] * 1000 if delays else float("nan")
            lost = count * args.utterances - len(delays)
            print(f"{count} sessions: text {at(0.5):.0f} ms behind the end of an utterance, p95 {at(0.95):.0f} ms; {lost} of "
                  f"{count * args.utterances} lost, {len(errors)} errors; memory {before:.0f} -> {peak:.0f} -> {memory(process):.0f} MB",
                  flush=True)
            for error in errors[:3]:
                print(f"  {error}", file=sys.stderr)
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
