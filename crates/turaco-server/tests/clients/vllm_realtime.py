"""A plain WebSocket in vLLM's dialect, as its published example does it."""

import asyncio
import json

import websockets
from common import BASE, EXPECTED, check, encoded, pieces, samples


async def listen(model):
    address = BASE.replace("http", "ws") + "/v1/realtime"
    headers = {"Authorization": "Bearer secret"}
    async with websockets.connect(address, additional_headers=headers) as socket:
        created = json.loads(await socket.recv())
        check(created["type"] == "session.created" and created["id"], created)
        await socket.send(json.dumps({"type": "input_audio_buffer.commit", "final": False}))
        error = json.loads(await socket.recv())
        check(error["code"] == "model_not_validated" and isinstance(error["error"], str), error)
        await socket.send(json.dumps({"type": "session.update", "model": model}))
        await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        for piece in pieces(samples(16000), 4096):
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": encoded(piece)}))
        await socket.send(json.dumps({"type": "input_audio_buffer.commit", "final": True}))
        deltas = ""
        while True:
            event = json.loads(await socket.recv())
            if event["type"] == "transcription.delta":
                deltas += event["delta"]
            elif event["type"] == "transcription.done":
                check(event["text"] == deltas.strip(), event)
                check(event["usage"]["total_tokens"] > 0, event)
                return event["text"]
            else:
                check(False, event)


text = asyncio.run(listen("tiny.en"))
check(EXPECTED in text.lower(), text)
asyncio.run(listen("voxtral-realtime"))
print("vLLM's dialect: all well")
