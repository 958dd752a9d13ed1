"""The unmodified `openai` package over the realtime WebSocket."""

import base64

import openai
from common import BASE, EXPECTED, check, encoded, pieces, samples

client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="secret")
PREFIX = "conversation.item.input_audio_transcription."


def listen(model, rate, turn_detection):
    """Deltas and transcripts of the speech, with silence behind it."""
    sound = samples(rate) + bytes(2 * rate * 2)
    with client.realtime.connect(model=model, extra_query={"intent": "transcription"}) as connection:
        first = connection.recv()
        check(first.type == "session.created", first.type)
        connection.session.update(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": rate},
                        "transcription": {"model": model},
                        "turn_detection": turn_detection,
                    }
                },
            }
        )
        updated = connection.recv()
        check(updated.type == "session.updated", updated)
        for piece in pieces(sound, rate // 5):
            connection.input_audio_buffer.append(audio=encoded(piece))
        if turn_detection is None:
            connection.input_audio_buffer.commit()
        deltas, texts, kinds, open_items = {}, [], [], set()
        while True:
            event = connection.recv()
            kinds.append(event.type)
            check(event.type != "error", event)
            if event.type == "input_audio_buffer.speech_started":
                open_items.add(event.item_id)
            if event.type == "input_audio_buffer.committed":
                open_items.add(event.item_id)
            if event.type == PREFIX + "delta":
                deltas[event.item_id] = deltas.get(event.item_id, "") + event.delta
            if event.type == PREFIX + "completed":
                check(event.transcript == deltas.get(event.item_id, "").strip(), event)
                texts.append(event.transcript)
                open_items.discard(event.item_id)
                if not open_items and (turn_detection is None or len(texts) >= 1 and done(kinds)):
                    return " ".join(texts), kinds


def done(kinds):
    return kinds.count("input_audio_buffer.speech_started") == kinds.count(PREFIX + "completed")


text, kinds = listen("tiny.en", 24000, None)
check(EXPECTED in text.lower(), text)
text, kinds = listen("tiny.en", 16000, {"type": "server_vad", "silence_duration_ms": 900})
check(EXPECTED.split()[1] in text.lower(), text)
for kind in ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "conversation.item.added"]:
    check(kind in kinds, kinds)
text, kinds = listen("voxtral-realtime", 24000, None)
check(kinds[-1] == PREFIX + "completed", kinds)


def answer(connection, response):
    """Events of an answer that is asked for."""
    connection.response.create(response=response)
    events = []
    while not events or events[-1].type != "response.done":
        events.append(connection.recv())
        check(events[-1].type != "error", events[-1])
    return events


with client.realtime.connect(model="voxtral-mini") as connection:
    check(connection.recv().type == "session.created", "session.created")
    tool = {"type": "function", "name": "clock", "description": "The time", "parameters": {"type": "object"}}
    connection.session.update(session={"type": "realtime", "output_modalities": ["text"], "tools": [tool], "tool_choice": "auto"})
    updated = connection.recv()
    check(updated.type == "session.updated" and updated.session.tools[0].name == "clock", updated)
    question = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What time is it?"}]}
    connection.conversation.item.create(item=question)
    # Called some time ago.
    connection.conversation.item.create(
        item={"type": "function_call", "call_id": "call_1", "name": "clock", "arguments": "{}"}
    )
    connection.conversation.item.create(item={"type": "function_call_output", "call_id": "call_1", "output": "noon"})
    events = answer(connection, {"max_output_tokens": 8, "metadata": {"of": "mine"}})
    done = events[-1].response
    check(done.status in ("completed", "incomplete") and done.metadata == {"of": "mine"}, done)
    check(done.usage.output_tokens <= 8, done)
    done = answer(connection, {"conversation": "none", "input": [question], "max_output_tokens": 8})[-1].response
    check(done.conversation_id is None, done)
    connection.response.create(response={"prompt": {"id": "one"}})
    refused = connection.recv()
    check(refused.type == "error" and refused.error.param == "response.prompt", refused)

# Push to talk: sound is sent while a key is held, and answered when it is let go.
with client.realtime.connect(model="gpt-realtime") as connection:
    check(connection.recv().type == "session.created", "session.created")
    connection.session.update(
        session={
            "type": "realtime",
            "output_modalities": ["audio"],
            "include": ["item.input_audio_transcription.logprobs"],
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "transcription": {"model": "tiny.en"},
                    "turn_detection": None,
                },
                "output": {"format": {"type": "audio/pcm", "rate": 24000}},
            },
        }
    )
    updated = connection.recv()
    check(updated.type == "session.updated" and updated.session.audio.input.turn_detection is None, updated)
    connection.input_audio_buffer.commit()
    refused = connection.recv()
    check(refused.type == "error" and refused.error.code == "input_audio_buffer_commit_empty", refused)
    for _ in range(2):
        for piece in pieces(samples(24000), 24000 // 5):
            connection.input_audio_buffer.append(audio=encoded(piece))
        connection.input_audio_buffer.commit()
        events = answer(connection, {"instructions": "Answer briefly."})
        kinds = [event.type for event in events]
        written = next(event for event in events if event.type == PREFIX + "completed")
        check(EXPECTED in written.transcript.lower(), written)
        check(len(written.logprobs) > 10 and all(word.logprob <= 0 for word in written.logprobs), written)
        check(kinds.index("input_audio_buffer.committed") < kinds.index("response.created"), kinds)
        sound = sum(len(base64.b64decode(event.delta)) for event in events if event.type == "response.output_audio.delta")
        check(sound > 4000 and sound % 2 == 0, sound)
        said = "".join(event.delta for event in events if event.type == "response.output_audio_transcript.delta")
        done = events[-1].response
        check(done.status == "completed" and done.output[0].content[0].transcript == said, done)

print("openai over WebSocket: all well")
