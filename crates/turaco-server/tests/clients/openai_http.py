"""The unmodified `openai` package over HTTP."""

import base64

import openai
from common import BASE, EXPECTED, SPEECH, check, seconds_of_wav

client = openai.OpenAI(base_url=f"{BASE}/v1", api_key="secret", max_retries=0)

# Every format of a transcription.
for response_format in ["json", "text", "srt", "verbose_json", "vtt"]:
    with open(SPEECH, "rb") as file:
        answer = client.audio.transcriptions.create(
            file=file, model="whisper-1", response_format=response_format
        )
    text = answer if isinstance(answer, str) else answer.text
    check(EXPECTED in text.lower(), f"{response_format}: {text}")
check_srt = text.startswith("WEBVTT")
check(check_srt, text)

# Both granularities.
with open(SPEECH, "rb") as file:
    answer = client.audio.transcriptions.create(
        file=file,
        model="tiny.en",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        temperature=0,
        language="en",
        prompt="A speech.",
    )
check(answer.words and answer.words[0].word == "And", f"words: {answer.words}")
check(answer.segments and answer.segments[0].tokens, "segments")
check(answer.language == "english" and answer.duration == 11.0, "language and duration")

# Streamed.
with open(SPEECH, "rb") as file:
    events = list(client.audio.transcriptions.create(file=file, model="tiny.en", stream=True))
deltas = "".join(event.delta for event in events if event.type == "transcript.text.delta")
check(events[-1].type == "transcript.text.done", events[-1].type)
check(events[-1].text == deltas.strip() and EXPECTED in deltas.lower(), deltas)

# A model that writes in another language than it hears is not here.
with open(SPEECH, "rb") as file:
    try:
        client.audio.translations.create(file=file, model="tiny.en")
        check(False, "an English model translated")
    except openai.BadRequestError as error:
        check(error.code == "unsupported_model_task", error)
with open(SPEECH, "rb") as file:
    answer = client.audio.translations.create(file=file, model="multilingual")
check(isinstance(answer.text, str), "translation")

# Speech.
for response_format in ["wav", "pcm", "flac", "opus"]:
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="The boats came home before the storm.",
        response_format=response_format, extra_body={"seed": 3, "max_new_tokens": 7},
    ) as response:
        data = b"".join(response.iter_bytes())
        kind = response.headers["content-type"]
    if response_format == "wav":
        check(abs(seconds_of_wav(data) - 0.48) < 1e-6, f"{seconds_of_wav(data)} s")
        whole = data[44:]
    if response_format == "pcm":
        check(response.headers["x-sample-rate"] == "24000" and data == whole, "pcm is another sound")
    starts = {"wav": b"RIFF", "flac": b"fLaC", "opus": b"OggS"}
    check(data.startswith(starts.get(response_format, b"")), f"{response_format}: {data[:4]}")
    check(kind == {"opus": "audio/ogg"}.get(response_format, f"audio/{response_format}"), kind)
events = client.post(
    "/audio/speech", cast_to=str,
    body={"model": "tts-1", "voice": "alloy", "input": "Good morning.", "stream_format": "sse", "max_new_tokens": 4},
)
check('"speech.audio.delta"' in events and '"speech.audio.done"' in events, events[:200])
try:
    client.audio.speech.create(model="tts-1", voice="alloy", input="x", response_format="mp3")
    check(False, "mp3")
except openai.BadRequestError as error:
    check(error.code == "unsupported_value", error)
try:
    client.audio.speech.create(model="tts-1", voice="nobody", input="x")
    check(False, "a voice that is not there")
except openai.NotFoundError as error:
    check(error.code == "voice_not_found", error)

# An answer of a model that hears.
with open(SPEECH, "rb") as file:
    sound = base64.b64encode(file.read()).decode()
messages = [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}]}]
answer = client.chat.completions.create(model="voxtral-mini", messages=messages, max_tokens=5, temperature=0)
check(answer.usage.completion_tokens == 5 and answer.choices[0].finish_reason == "length", answer)
chunks = client.chat.completions.create(
    model="voxtral-mini", messages=messages, max_tokens=5, temperature=0, stream=True
)
text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
check(text == answer.choices[0].message.content, text)

# Models and failures.
names = [model.id for model in client.models.list()]
check("tiny.en" in names, names)
check(client.models.retrieve("tiny.en").id == "tiny.en", "retrieve")
for wrong, kind in [
    (lambda: client.models.retrieve("nothing"), openai.NotFoundError),
    (lambda: openai.OpenAI(base_url=f"{BASE}/v1", api_key="wrong").models.list(), openai.AuthenticationError),
    (lambda: client.audio.transcriptions.create(file=("a.mp3", b"just a text"), model="tiny.en"), openai.BadRequestError),
    (lambda: client.audio.transcriptions.create(file=open(SPEECH, "rb"), model="nothing"), openai.NotFoundError),
]:
    try:
        wrong()
        check(False, f"no {kind.__name__}")
    except kind as error:
        check(error.code and error.type, f"{error!r} has no code")
print("openai over HTTP: all well")
