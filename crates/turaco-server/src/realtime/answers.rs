//! What a conversation tells, as events of OpenAI's protocol: items, and responses that are made of them.

use std::collections::{HashMap, VecDeque};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use turaco::voice::{AnswerEnd, TurnTimings, VoiceEvent};

use super::protocol::{AudioFormat, ServerEvent};
use super::session::Outbox;
use super::sound_out::SoundWriter;
use crate::error::ApiError;
use crate::layer::new_id;
use crate::recognition::usage;

/// Items that can be asked for again.
const REMEMBERED: usize = 1000;

/// Items and responses of one conversation.
#[derive(Debug, Default)]
pub struct Answers {
    /// Also tell the names of OpenAI's beta.
    beta: bool,
    /// Ids of utterances by their numbers, and their lengths in seconds.
    utterances: HashMap<u64, (String, f64)>,
    response: Option<Response>,
    /// The newest response's item and number, for clients that say how much of it was heard.
    newest: Option<(String, u64)>,
    last_item: Option<String>,
    items: VecDeque<(String, Value)>,
}

#[derive(Debug)]
struct Response {
    number: u64,
    id: String,
    item_id: String,
    previous_item_id: Option<String>,
    /// `None` = text alone.
    sound: Option<SoundWriter>,
}

impl Answers {
    /// Nothing was said yet. `beta`: also tell the names of OpenAI's beta.
    pub fn new(beta: bool) -> Self {
        Self {
            beta,
            ..Self::default()
        }
    }

    /// Whether an answer is being given.
    pub fn is_answering(&self) -> bool {
        self.response.is_some()
    }

    /// The number of the answer whose item this is, if it is the newest.
    ///
    /// # Errors
    /// There is no answer of this id that could be cut.
    pub fn number_of(&self, item_id: &str) -> Result<u64, ApiError> {
        let newest = self.newest.as_ref().filter(|(id, _)| id == item_id);
        newest
            .map(|(_, number)| *number)
            .ok_or_else(|| no_item(item_id))
    }

    /// What happened, as events. Answers are said with sound of this format and rate, or written.
    pub fn tell(
        &mut self,
        event: VoiceEvent,
        sound: Option<(AudioFormat, u32)>,
        out: &mut Outbox,
    ) -> Result<(), ApiError> {
        match event {
            VoiceEvent::SpeechStarted { utterance, at_ms } => {
                let item_id = self.utterance(utterance);
                let audio_start_ms = at_ms;
                out.push(
                    ServerEvent::SpeechStarted {
                        audio_start_ms,
                        item_id,
                    }
                    .to_json(),
                );
            }
            VoiceEvent::SpeechStopped { utterance, at_ms } => {
                let item_id = self.utterance(utterance);
                let audio_end_ms = at_ms;
                out.push(
                    ServerEvent::SpeechStopped {
                        audio_end_ms,
                        item_id,
                    }
                    .to_json(),
                );
            }
            VoiceEvent::Committed {
                utterance, seconds, ..
            } => {
                let id = self.utterance(utterance);
                self.utterances.insert(utterance, (id.clone(), seconds));
                let previous_item_id = self.last_item.clone();
                out.push(
                    ServerEvent::Committed {
                        previous_item_id,
                        item_id: id.clone(),
                    }
                    .to_json(),
                );
                let content = json!([{"type": "input_audio", "transcript": null}]);
                self.add_item(item(&id, "user", "completed", content), true, out);
            }
            VoiceEvent::Hearing { utterance, text } => {
                let delta = ServerEvent::Delta {
                    item_id: self.utterance(utterance),
                    content_index: 0,
                    delta: text,
                };
                out.push(delta.to_json());
            }
            VoiceEvent::Heard {
                utterance,
                text,
                seconds,
            } => {
                let item_id = self.utterance(utterance);
                self.utterances.remove(&utterance);
                let content = json!([{"type": "input_audio", "transcript": text}]);
                self.remember(item(&item_id, "user", "completed", content));
                let completed = ServerEvent::Completed {
                    item_id,
                    content_index: 0,
                    transcript: text,
                    usage: usage(seconds),
                };
                out.push(completed.to_json());
            }
            VoiceEvent::HearingFailed { utterance, message } => {
                let item_id = self.utterance(utterance);
                self.utterances.remove(&utterance);
                let failed = ServerEvent::Failed {
                    item_id,
                    content_index: 0,
                    error: ApiError::internal(message).body(),
                };
                out.push(failed.to_json());
            }
            VoiceEvent::AnswerStarted { answer, .. } => self.begin(answer, sound, out)?,
            VoiceEvent::AnswerText { answer, text } => {
                let name = match self.of(answer) {
                    Some(response) if response.sound.is_some() => "output_audio_transcript.delta",
                    _ => "output_text.delta",
                };
                self.part_event(answer, name, json!({"delta": text}), out);
            }
            VoiceEvent::AnswerAudio { answer, samples } => {
                let response = self.response.as_mut();
                let response = response.filter(|response| response.number == answer);
                if let Some(writer) = response.and_then(|response| response.sound.as_mut()) {
                    let delta = STANDARD.encode(writer.write(&samples));
                    self.part_event(answer, "output_audio.delta", json!({"delta": delta}), out);
                }
            }
            VoiceEvent::AnswerEnded {
                answer,
                end,
                text,
                tokens,
                timings,
                ..
            } => {
                self.end(answer, end, &text, (tokens, &timings), out);
            }
            VoiceEvent::Idle { at_ms } => {
                let mut event = json!({
                    "type": "input_audio_buffer.timeout_triggered",
                    "audio_start_ms": at_ms,
                    "audio_end_ms": at_ms,
                    "item_id": self.last_item,
                });
                event["event_id"] = new_id("event").into();
                out.push(event);
            }
            VoiceEvent::Warning { message } | VoiceEvent::Failed { message } => {
                let error = ApiError::internal(message).body();
                out.push(ServerEvent::Error { error }.to_json());
            }
            _ => {}
        }
        Ok(())
    }

    fn utterance(&mut self, number: u64) -> String {
        let known = self.utterances.entry(number);
        known.or_insert_with(|| (new_id("item"), 0.0)).0.clone()
    }

    fn of(&self, answer: u64) -> Option<&Response> {
        let response = self.response.as_ref();
        response.filter(|response| response.number == answer)
    }

    /// An item of the conversation; `done` if nothing of it is to come.
    pub fn add_item(&mut self, item: Value, done: bool, out: &mut Outbox) {
        let id = item["id"].as_str().unwrap_or_default().to_owned();
        let previous_item_id = self.last_item.replace(id);
        if self.beta {
            let (previous_item_id, item) = (previous_item_id.clone(), item.clone());
            out.push(
                ServerEvent::ItemCreated {
                    previous_item_id,
                    item,
                }
                .to_json(),
            );
        }
        let (previous, added) = (previous_item_id.clone(), item.clone());
        out.push(
            ServerEvent::ItemAdded {
                previous_item_id: previous,
                item: added,
            }
            .to_json(),
        );
        if done {
            self.remember(item.clone());
            out.push(
                ServerEvent::ItemDone {
                    previous_item_id,
                    item,
                }
                .to_json(),
            );
        }
    }

    fn remember(&mut self, item: Value) {
        let id = item["id"].as_str().unwrap_or_default().to_owned();
        self.items.retain(|(known, _)| *known != id);
        self.items.push_back((id, item));
        if self.items.len() > REMEMBERED {
            self.items.pop_front();
        }
    }

    /// Tell an item again.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn retrieve(&self, id: &str) -> Result<ServerEvent, ApiError> {
        let found = self.items.iter().find(|(known, _)| known == id);
        let (_, item) = found.ok_or_else(|| no_item(id))?;
        Ok(ServerEvent::ItemRetrieved { item: item.clone() })
    }

    /// Forget an item; the mind has read it all the same.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn delete(&mut self, id: String) -> Result<ServerEvent, ApiError> {
        let before = self.items.len();
        self.items.retain(|(known, _)| *known != id);
        match self.items.len() == before {
            true => Err(no_item(&id)),
            false => Ok(ServerEvent::ItemDeleted { item_id: id }),
        }
    }

    fn begin(
        &mut self,
        answer: u64,
        sound: Option<(AudioFormat, u32)>,
        out: &mut Outbox,
    ) -> Result<(), ApiError> {
        let response = Response {
            number: answer,
            id: new_id("resp"),
            item_id: new_id("item"),
            previous_item_id: self.last_item.clone(),
            sound: sound
                .map(|(format, rate)| SoundWriter::new(format, rate))
                .transpose()?,
        };
        self.newest = Some((response.item_id.clone(), answer));
        let created = json!({
            "type": "response.created",
            "event_id": new_id("event"),
            "response": response_json(&response.id, "in_progress", Value::Null, json!([])),
        });
        out.push(created);
        let started = item(&response.item_id, "assistant", "in_progress", json!([]));
        let added = json!({
            "type": "response.output_item.added",
            "event_id": new_id("event"),
            "response_id": response.id,
            "output_index": 0,
            "item": started,
        });
        out.push(added);
        let part = part(response.sound.is_some(), "");
        self.response = Some(response);
        self.add_item(started, false, out);
        self.part_event(answer, "content_part.added", json!({"part": part}), out);
        Ok(())
    }

    /// An event about the one part of the answer's one item.
    fn part_event(&self, answer: u64, name: &str, fields: Value, out: &mut Outbox) {
        let Some(response) = self.of(answer) else {
            return;
        };
        let mut event = json!({
            "type": format!("response.{name}"),
            "event_id": new_id("event"),
            "response_id": response.id,
            "item_id": response.item_id,
            "output_index": 0,
            "content_index": 0,
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

    fn end(
        &mut self,
        answer: u64,
        end: AnswerEnd,
        text: &str,
        (tokens, timings): (Option<(usize, usize)>, &TurnTimings),
        out: &mut Outbox,
    ) {
        let with_sound = match self.of(answer) {
            Some(response) => response.sound.is_some(),
            None => return,
        };
        let rest = self
            .response
            .as_mut()
            .and_then(|response| response.sound.as_mut());
        let rest = rest.map(SoundWriter::finish).unwrap_or_default();
        if !rest.is_empty() && matches!(end, AnswerEnd::Completed | AnswerEnd::Cut) {
            let delta = json!({"delta": STANDARD.encode(rest)});
            self.part_event(answer, "output_audio.delta", delta, out);
        }
        match with_sound {
            true => {
                self.part_event(answer, "output_audio.done", json!({}), out);
                let transcript = json!({"transcript": text});
                self.part_event(answer, "output_audio_transcript.done", transcript, out);
            }
            false => self.part_event(answer, "output_text.done", json!({"text": text}), out),
        }
        let part = part(with_sound, text);
        self.part_event(answer, "content_part.done", json!({"part": part}), out);
        let Some(response) = self.response.take() else {
            return;
        };
        let (status, details) = match end {
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
            _ => (
                "failed",
                json!({"type": "failed", "error": {"type": "server_error", "code": "internal_error"}}),
            ),
        };
        let item_status = if status == "completed" {
            status
        } else {
            "incomplete"
        };
        let item = item(&response.item_id, "assistant", item_status, json!([part]));
        let done = json!({
            "type": "response.output_item.done",
            "event_id": new_id("event"),
            "response_id": response.id,
            "output_index": 0,
            "item": item,
        });
        out.push(done);
        self.remember(item.clone());
        let item_done = ServerEvent::ItemDone {
            previous_item_id: response.previous_item_id.clone(),
            item: item.clone(),
        };
        out.push(item_done.to_json());
        let mut whole = response_json(&response.id, status, details, json!([item]));
        let (read, written) = tokens.unwrap_or_default();
        whole["usage"] = json!({
            "input_tokens": read,
            "output_tokens": written,
            "total_tokens": read + written,
        });
        whole["timings"] = serde_json::to_value(timings).unwrap_or_default();
        out.push(json!({
            "type": "response.done",
            "event_id": new_id("event"),
            "response": whole,
        }));
    }
}

/// An item of a conversation, as clients know it.
pub fn item(id: &str, role: &str, status: &str, content: Value) -> Value {
    json!({
        "id": id,
        "object": "realtime.item",
        "type": "message",
        "status": status,
        "role": role,
        "content": content,
    })
}

fn part(with_sound: bool, text: &str) -> Value {
    match with_sound {
        true => json!({"type": "output_audio", "transcript": text}),
        false => json!({"type": "output_text", "text": text}),
    }
}

fn response_json(id: &str, status: &str, details: Value, output: Value) -> Value {
    json!({
        "id": id,
        "object": "realtime.response",
        "status": status,
        "status_details": details,
        "output": output,
        "usage": null,
    })
}

fn no_item(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no item `{id}`")).about("item_id")
}
