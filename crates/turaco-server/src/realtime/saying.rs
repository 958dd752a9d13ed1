//! One answer on its way to the client: the items that it is made of.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use turaco::voice::{AnswerEnd, TurnTimings, Which};

use super::answers::Asked;
use super::history::{History, part};
use super::items::message_item;
use super::session::Outbox;
use super::sound_out::SoundWriter;
use crate::error::ApiError;
use crate::layer::new_id;

/// An answer that is being given.
#[derive(Debug)]
pub struct Response {
    pub number: u64,
    pub id: String,
    /// It is no part of the conversation.
    pub aside: bool,
    asked: Asked,
    conversation_id: Option<String>,
    /// Also tell the names of OpenAI's beta.
    beta: bool,
    /// `None` = text alone.
    sound: Option<SoundWriter>,
    /// The item of what is written or said, and its place, once there is any.
    message: Option<(String, usize)>,
    /// Items by place; null until they are done.
    output: Vec<Value>,
}

/// How an answer ended.
pub struct Ending<'a> {
    pub end: AnswerEnd,
    pub text: &'a str,
    pub tokens: Option<(usize, usize)>,
    pub timings: &'a TurnTimings,
    /// Why it failed, if it did.
    pub failed: Option<&'a ApiError>,
}

impl Response {
    /// An answer of which nothing was given; said at `sample_rate`, or written.
    ///
    /// # Errors
    /// A format that the voice's sound cannot be changed to.
    pub fn new(
        number: u64,
        asked: Asked,
        sample_rate: Option<u32>,
        (conversation_id, beta): (Option<String>, bool),
    ) -> Result<Self, ApiError> {
        let format = asked.talking.output_format;
        let sound = sample_rate.map(|rate| SoundWriter::new(format, rate));
        Ok(Self {
            number,
            id: new_id("resp"),
            aside: asked.aside,
            asked,
            conversation_id,
            beta,
            sound: sound.transpose()?,
            message: None,
            output: Vec::new(),
        })
    }

    /// It begins.
    pub fn created(&self, out: &mut Outbox) {
        out.push(json!({
            "type": "response.created",
            "event_id": new_id("event"),
            "response": self.json("in_progress", &Value::Null),
        }));
    }

    /// More of its text; the id of the item.
    pub fn text(&mut self, text: &str, history: &mut History, out: &mut Outbox) -> String {
        let (id, place) = match &self.message {
            Some((id, place)) => (id.clone(), *place),
            None => self.begin_message(history, out),
        };
        let name = match self.sound {
            Some(_) => "output_audio_transcript.delta",
            None => "output_text.delta",
        };
        self.part_event(name, (&id, place), json!({"delta": text}), out);
        id
    }

    /// More of its sound, which is that of text that was told.
    pub fn audio(&mut self, samples: &[f32], out: &mut Outbox) {
        if let (Some(writer), Some((id, place))) = (&mut self.sound, &self.message) {
            let delta = STANDARD.encode(writer.write(samples));
            let (id, place) = (id.clone(), *place);
            self.part_event(
                "output_audio.delta",
                (&id, place),
                json!({"delta": delta}),
                out,
            );
        }
    }

    fn begin_message(&mut self, history: &mut History, out: &mut Outbox) -> (String, usize) {
        let id = new_id("item");
        let started = message_item(&id, "assistant", "in_progress", json!([]));
        let place = self.item_added(&started, out);
        if !self.aside {
            history.begin(&started, out);
        }
        let part = part(self.sound.is_some(), "");
        self.part_event(
            "content_part.added",
            (&id, place),
            json!({"part": part}),
            out,
        );
        self.message = Some((id.clone(), place));
        (id, place)
    }

    /// An item of it begins; its place.
    pub fn item_added(&mut self, item: &Value, out: &mut Outbox) -> usize {
        let place = self.output.len();
        self.output.push(Value::Null);
        out.push(json!({
            "type": "response.output_item.added",
            "event_id": new_id("event"),
            "response_id": self.id,
            "output_index": place,
            "item": item,
        }));
        place
    }

    /// An item of it is there as a whole.
    pub fn item_done(&mut self, place: usize, item: Value, out: &mut Outbox) {
        out.push(json!({
            "type": "response.output_item.done",
            "event_id": new_id("event"),
            "response_id": self.id,
            "output_index": place,
            "item": item,
        }));
        if let Some(slot) = self.output.get_mut(place) {
            *slot = item;
        }
    }

    /// An event about an item.
    pub fn event(&self, name: &str, item: (&str, usize), fields: Value, out: &mut Outbox) {
        let (item_id, output_index) = item;
        let mut event = json!({
            "type": format!("response.{name}"),
            "event_id": new_id("event"),
            "response_id": self.id,
            "item_id": item_id,
            "output_index": output_index,
        });
        if let (Some(event), Value::Object(fields)) = (event.as_object_mut(), fields) {
            event.extend(fields);
        }
        // The older names of the same.
        if let (true, Some(old)) = (self.beta, name.strip_prefix("output_")) {
            let mut older = event.clone();
            older["type"] = format!("response.{old}").into();
            older["event_id"] = new_id("event").into();
            out.push(older);
        }
        out.push(event);
    }

    /// An event about the one part of its message.
    fn part_event(&self, name: &str, item: (&str, usize), mut fields: Value, out: &mut Outbox) {
        fields["content_index"] = 0.into();
        self.event(name, item, fields, out);
    }

    /// It is over.
    pub fn end(mut self, ending: &Ending<'_>, history: &mut History, out: &mut Outbox) {
        let (status, details) = status(ending.end, ending.failed);
        if let Some((id, place)) = self.message.take() {
            let item = (id.as_str(), place);
            let rest = self.sound.as_mut().map(SoundWriter::finish);
            let rest = rest.unwrap_or_default();
            if !rest.is_empty() && matches!(ending.end, AnswerEnd::Completed | AnswerEnd::Cut) {
                let delta = json!({"delta": STANDARD.encode(rest)});
                self.part_event("output_audio.delta", item, delta, out);
            }
            let text = ending.text;
            match self.sound.is_some() {
                true => {
                    self.part_event("output_audio.done", item, json!({}), out);
                    let transcript = json!({"transcript": text});
                    self.part_event("output_audio_transcript.done", item, transcript, out);
                }
                false => self.part_event("output_text.done", item, json!({"text": text}), out),
            }
            let part = part(self.sound.is_some(), text);
            self.part_event("content_part.done", item, json!({"part": part}), out);
            let item_status = match status {
                "completed" => "completed",
                _ => "incomplete",
            };
            let done = message_item(&id, "assistant", item_status, json!([part]));
            self.item_done(place, done.clone(), out);
            if !self.aside {
                history.done(done, Which::Answer(self.number), out);
            }
        }
        let mut whole = self.json(status, &details);
        let (read, written) = ending.tokens.unwrap_or_default();
        whole["usage"] = json!({
            "input_tokens": read,
            "output_tokens": written,
            "total_tokens": read + written,
        });
        whole["timings"] = serde_json::to_value(ending.timings).unwrap_or_default();
        out.push(json!({
            "type": "response.done",
            "event_id": new_id("event"),
            "response": whole,
        }));
    }

    fn json(&self, status: &str, details: &Value) -> Value {
        let mut json = json!({
            "id": self.id,
            "object": "realtime.response",
            "status": status,
            "status_details": details,
            "output": self.output,
            "conversation_id": self.conversation_id,
            "metadata": self.asked.metadata,
            "audio": {},
            "usage": null,
        });
        self.asked.talking.write(&mut json);
        json
    }
}

/// The protocol's words for how an answer ended.
fn status(end: AnswerEnd, failed: Option<&ApiError>) -> (&'static str, Value) {
    match end {
        AnswerEnd::Completed => ("completed", Value::Null),
        AnswerEnd::Cut => (
            "incomplete",
            json!({"type": "incomplete", "reason": "max_output_tokens"}),
        ),
        AnswerEnd::Interrupted => (
            "cancelled",
            json!({"type": "cancelled", "reason": "turn_detected"}),
        ),
        AnswerEnd::Cancelled => (
            "cancelled",
            json!({"type": "cancelled", "reason": "client_cancelled"}),
        ),
        _ => {
            let unknown = || ApiError::internal("");
            let failed = failed.cloned().unwrap_or_else(unknown);
            let error = json!({
                "type": failed.kind(),
                "code": failed.code,
                "message": failed.message,
            });
            ("failed", json!({"type": "failed", "error": error}))
        }
    }
}
