//! Recognition of sound that is still arriving, without end (Voxtral Realtime).
//!
//! [`RealtimeRecognizer`] is the loaded model; [`RealtimeSession`] is one stream of sound on its way to text: `push`
//! samples, take events, `flush` to hear the rest of a sentence, `finish` at the end. A file is the same session with
//! everything pushed at once: what comes out does not depend on how the sound was cut.
//!
//! Inside, from sound to text: `session` turns samples into audio vectors and holds what a stream needs, `track` is the
//! text of one delay, `schedule` advances several sessions with one read of the weights, `transcript` makes words and
//! segments of tokens.

mod events;
mod guesser;
mod offline;
mod options;
mod prefix;
mod recognizer;
mod schedule;
mod session;
mod timeline;
mod track;
mod transcript;

pub use events::{Alternative, RealtimeEvent, TrackKind};
pub use offline::RealtimeTranscription;
pub use options::RealtimeOptions;
pub use recognizer::RealtimeRecognizer;
pub use schedule::RealtimeBatch;
pub use session::{RealtimeSession, RealtimeTimings};
