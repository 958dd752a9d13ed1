//! Speech recognition: what is common to all recognisers.
//!
//! [`Recognizer`] loads a model of any family. [`RealtimeRecognizer`] is one for sound that is still arriving.
//!
//! [`Transcriber`] is Whisper. Inside, from the outside in: `long_form` and `batched` cut a file into windows,
//! `fallback` decodes a window until the text is plausible, `window_decoder` searches for the best tokens under the
//! rules of `token_rules`, `words` finds the time of each word.

mod batched;
pub mod chat_transcription;
mod dtw;
pub mod energy_gate;
mod fallback;
mod language;
mod long_form;
mod memory_guard;
pub mod options;
pub mod realtime;
pub mod recognizer;
pub mod segment;
mod stretches;
pub mod timings;
mod token_rules;
pub mod transcriber;
pub mod vad;
mod vad_segmenter;
pub mod vad_stream;
pub mod vad_time_map;
mod window_decoder;
mod window_prompt;
mod words;
mod workspace;

pub use chat_transcription::ChatTranscription;
pub use options::{Task, TranscribeOptions, VadOptions};
pub use realtime::{RealtimeOptions, RealtimeRecognizer, RealtimeSession};
pub use recognizer::{Recognizer, Running};
pub use segment::{Info, Segment, Word};
pub use timings::Timings;
pub use transcriber::{Transcriber, Transcription};
