"""The unmodified `wyoming` package."""

import asyncio

from common import EXPECTED, WYOMING_PORT, check, pieces, samples
from wyoming.asr import Transcribe, Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.tts import (
    Synthesize,
    SynthesizeChunk,
    SynthesizeStart,
    SynthesizeStop,
    SynthesizeStopped,
    SynthesizeVoice,
)


async def transcribe(name):
    async with AsyncTcpClient("127.0.0.1", WYOMING_PORT) as client:
        await client.write_event(Transcribe(name=name, language="en").event())
        await client.write_event(AudioStart(rate=16000, width=2, channels=1).event())
        for piece in pieces(samples(16000), 2048):
            await client.write_event(AudioChunk(rate=16000, width=2, channels=1, audio=piece).event())
        await client.write_event(AudioStop().event())
        chunks = ""
        while True:
            event = await client.read_event()
            if TranscriptChunk.is_type(event.type):
                chunks += TranscriptChunk.from_event(event).text
            elif Transcript.is_type(event.type):
                text = Transcript.from_event(event).text
                check(text == chunks.strip(), f"{text!r} is not {chunks!r}")
                return text
            else:
                check(event.type in ("transcript-start", "transcript-stop"), event)


async def sound(client, last):
    """Seconds of sound until a message of this type."""
    data, rate = b"", 24000
    while True:
        event = await client.read_event()
        check(event is not None and event.type != "error", event)
        if AudioChunk.is_type(event.type):
            chunk = AudioChunk.from_event(event)
            data, rate = data + chunk.audio, chunk.rate
        if event.type == last:
            return len(data) / 2 / rate


async def main():
    async with AsyncTcpClient("127.0.0.1", WYOMING_PORT) as client:
        await client.write_event(Describe().event())
        info = Info.from_event(await client.read_event())
        check(info.asr[0].supports_transcript_streaming and info.asr[0].requires_external_vad, info.asr)
        check("tiny.en" in [model.name for model in info.asr[0].models], info.asr)
        check(info.tts[0].supports_synthesize_streaming and info.tts[0].voices, info.tts)
        await client.write_event(Ping(text="hello").event())
        check(Pong.from_event(await client.read_event()).text == "hello", "ping")
        voice = SynthesizeVoice(name=info.tts[0].voices[0].name)
        await client.write_event(Synthesize(text="Hello.", voice=voice).event())
        check(await sound(client, AudioStop().event().type) > 0.05, "synthesize")
        await client.write_event(SynthesizeStart(voice=voice).event())
        for word in ["Good ", "morning. ", "Bye."]:
            await client.write_event(SynthesizeChunk(text=word).event())
        # For servers that cannot stream.
        await client.write_event(Synthesize(text="Good morning. Bye.").event())
        await client.write_event(SynthesizeStop().event())
        check(await sound(client, SynthesizeStopped().event().type) > 0.05, "synthesize in pieces")
    text = await transcribe("tiny.en")
    check(EXPECTED in text.lower(), text)
    await transcribe("voxtral-realtime")


asyncio.run(main())
print("wyoming: all well")
