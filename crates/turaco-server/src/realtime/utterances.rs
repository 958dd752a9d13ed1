//! The utterances of a session in OpenAI's dialect: what is being said, what is being written down, and what was.

use std::collections::VecDeque;
use std::time::Instant;

use serde_json::{Value, json};

use super::ear::EarEvent;
use super::protocol::ServerEvent;
use super::session::Outbox;
use crate::error::ApiError;
use crate::layer::new_id;
use crate::openai::transcriptions::logprobs;
use crate::recognition::usage;
use crate::upload::SAMPLE_RATE;

/// Utterances whose text can be asked for again.
const REMEMBERED: usize = 1000;

/// All utterances of a session.
#[derive(Debug, Default)]
pub struct Utterances {
    /// Also tell the names of OpenAI's beta.
    beta: bool,
    /// What is being said.
    current: Option<Utterance>,
    /// What is over and not written down as a whole; the front one is what the ear tells of.
    open: VecDeque<Utterance>,
    /// What is: ids and texts.
    remembered: VecDeque<(String, String)>,
    last_item: Option<String>,
}

#[derive(Debug)]
struct Utterance {
    id: String,
    text: String,
    n_segments: usize,
    /// Where it began, in samples of the session and of the ear.
    start: u64,
    given_start: u64,
    samples: u64,
    /// Probabilities of its words.
    logprobs: Vec<Value>,
    /// When it was over, and the seconds of silence that it took to know.
    ended: Option<(Instant, Option<f64>)>,
    /// The client does not want to know.
    discarded: bool,
}

impl Utterances {
    /// Nothing was said yet. `beta`: also tell the names of OpenAI's beta.
    pub fn new(beta: bool) -> Self {
        Self {
            beta,
            ..Self::default()
        }
    }

    /// A new utterance; its id.
    pub fn begin(&mut self, start: u64, given_start: u64) -> String {
        let id = new_id("item");
        self.current = Some(Utterance {
            id: id.clone(),
            text: String::new(),
            n_segments: 0,
            start,
            given_start,
            samples: 0,
            logprobs: Vec::new(),
            ended: None,
            discarded: false,
        });
        id
    }

    /// The ear was given more of it.
    pub fn give(&mut self, samples: u64) {
        if let Some(current) = &mut self.current {
            current.samples += samples;
        }
    }

    /// The id of what is being said.
    pub fn current(&self) -> Option<&str> {
        self.current.as_ref().map(|current| current.id.as_str())
    }

    /// Whether the ear was given any of what is being said.
    pub fn has_sound(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| current.samples > 0)
    }

    /// Whether nothing is being said or written down.
    pub fn is_idle(&self) -> bool {
        self.current.is_none() && self.open.is_empty()
    }

    /// Whether something is being written down.
    pub fn is_working(&self) -> bool {
        !self.open.is_empty()
    }

    /// What is being said is not to be told of.
    pub fn discard(&mut self) {
        if let Some(current) = &mut self.current {
            current.discarded = true;
        }
    }

    /// Whether the client is to be told of what is being said.
    pub fn is_wanted(&self) -> bool {
        self.current
            .as_ref()
            .is_some_and(|current| !current.discarded)
    }

    /// Whether any utterance that the client was told of is over.
    pub fn has_ended(&self) -> bool {
        self.last_item.is_some()
    }

    /// What is being said is not heard.
    pub fn forget_current(&mut self) {
        self.current = None;
    }

    /// Nobody hears any more: what was to be written down is not.
    pub fn fail_open(&mut self, error: &ApiError, out: &mut Outbox) {
        self.current = None;
        for utterance in self.open.drain(..).filter(|one| !one.discarded) {
            out.push(failed(utterance.id, error));
        }
    }

    /// What is being said is over, which was known after `waited` seconds of silence; false if there was nothing.
    pub fn end(&mut self, waited: Option<f64>, out: &mut Outbox) -> bool {
        let Some(mut utterance) = self.current.take() else {
            return false;
        };
        utterance.ended = Some((Instant::now(), waited));
        if !utterance.discarded {
            let previous_item_id = self.last_item.replace(utterance.id.clone());
            let item = item(&utterance.id, None);
            let committed = ServerEvent::Committed {
                previous_item_id: previous_item_id.clone(),
                item_id: utterance.id.clone(),
            };
            out.push(committed.to_json());
            if self.beta {
                let created = ServerEvent::ItemCreated {
                    previous_item_id: previous_item_id.clone(),
                    item: item.clone(),
                };
                out.push(created.to_json());
            }
            let added = ServerEvent::ItemAdded {
                previous_item_id: previous_item_id.clone(),
                item: item.clone(),
            };
            out.push(added.to_json());
            let done = ServerEvent::ItemDone {
                previous_item_id,
                item,
            };
            out.push(done.to_json());
        }
        self.open.push_back(utterance);
        true
    }

    /// What the ear heard; with stretches of text and their times if `timestamps`, and probabilities if `with_logprobs`. Of an
    /// utterance whose text is there: the seconds of silence that ended it, and those from that end to the text.
    pub fn heard(
        &mut self,
        event: EarEvent,
        (timestamps, with_logprobs): (bool, bool),
        out: &mut Outbox,
    ) -> Option<(Option<f64>, f64)> {
        match event {
            EarEvent::Delta { text, words } => {
                let words = words.iter().filter(|_| with_logprobs);
                let logprobs = Some(logprobs(words)).filter(|all| *all != json!([]));
                self.delta(&text, logprobs, out);
            }
            EarEvent::Segment(segment) => {
                let utterance = self.open.front_mut().or(self.current.as_mut());
                let utterance = utterance.filter(|one| !one.discarded)?;
                if with_logprobs
                    && let Value::Array(words) = logprobs(segment.words.iter().flatten())
                {
                    utterance.logprobs.extend(words);
                }
                if !timestamps {
                    return None;
                }
                // From the time of the ear to that of the session.
                let shift = seconds(utterance.start) - seconds(utterance.given_start);
                let segment = ServerEvent::Segment {
                    item_id: utterance.id.clone(),
                    content_index: 0,
                    id: format!("{}_{}", utterance.id, utterance.n_segments),
                    text: segment.text,
                    start: segment.start + shift,
                    end: segment.end + shift,
                };
                out.push(segment.to_json());
                utterance.n_segments += 1;
            }
            EarEvent::Done { .. } => {
                let utterance = self.open.pop_front().filter(|one| !one.discarded)?;
                let transcript = utterance.text.trim().to_owned();
                self.remember(&utterance.id, &transcript);
                let completed = ServerEvent::Completed {
                    item_id: utterance.id,
                    content_index: 0,
                    transcript,
                    usage: usage(seconds(utterance.samples)),
                    logprobs: with_logprobs.then(|| utterance.logprobs.into()),
                };
                out.push(completed.to_json());
                let (ended, waited) = utterance.ended?;
                return Some((waited, ended.elapsed().as_secs_f64()));
            }
            EarEvent::Failed(error) | EarEvent::Broken(error) => {
                let utterance = self.open.pop_front().filter(|one| !one.discarded)?;
                out.push(failed(utterance.id, &error));
            }
        }
        None
    }

    fn delta(&mut self, text: &str, logprobs: Option<Value>, out: &mut Outbox) {
        let Some(utterance) = self.open.front_mut().or(self.current.as_mut()) else {
            return;
        };
        let delta = match utterance.text.is_empty() {
            true => text.trim_start(),
            false => text,
        };
        if delta.is_empty() {
            return;
        }
        utterance.text.push_str(delta);
        if !utterance.discarded {
            let delta = ServerEvent::Delta {
                item_id: utterance.id.clone(),
                content_index: 0,
                delta: delta.to_owned(),
                logprobs,
            };
            out.push(delta.to_json());
        }
    }

    fn remember(&mut self, id: &str, text: &str) {
        self.remembered.push_back((id.to_owned(), text.to_owned()));
        if self.remembered.len() > REMEMBERED {
            self.remembered.pop_front();
        }
    }

    /// Tell the text of an utterance again.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn retrieve(&self, id: &str) -> Result<ServerEvent, ApiError> {
        let mut open = self.open.iter();
        if open.any(|utterance| utterance.id == id && !utterance.discarded) {
            // It is not written down yet.
            return Ok(ServerEvent::ItemRetrieved {
                item: item(id, None),
            });
        }
        let found = self.remembered.iter().find(|(known, _)| known == id);
        let (id, text) = found.ok_or_else(|| no_item(id))?;
        Ok(ServerEvent::ItemRetrieved {
            item: item(id, Some(text)),
        })
    }

    /// Forget the text of an utterance.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn delete(&mut self, id: String) -> Result<ServerEvent, ApiError> {
        let before = self.remembered.len();
        self.remembered.retain(|(known, _)| *known != id);
        match self.remembered.len() == before {
            true => Err(no_item(&id)),
            false => Ok(ServerEvent::ItemDeleted { item_id: id }),
        }
    }
}

fn item(id: &str, transcript: Option<&str>) -> Value {
    json!({
        "id": id,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": transcript}],
    })
}

fn failed(item_id: String, error: &ApiError) -> Value {
    let failed = ServerEvent::Failed {
        item_id,
        content_index: 0,
        error: error.body(),
    };
    failed.to_json()
}

fn no_item(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no item `{id}`")).about("item_id")
}

/// Seconds of so many samples.
pub fn seconds(samples: u64) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_when_the_ear_breaks_is_told_to_have_failed() {
        let (mut utterances, mut out) = (Utterances::new(false), Outbox::new());
        let mut ids = Vec::new();
        for _ in 0..2 {
            ids.push(utterances.begin(0, 0));
            utterances.give(10);
            assert!(utterances.end(None, &mut out));
        }
        utterances.begin(0, 0);
        assert!(utterances.is_wanted() && utterances.has_ended());
        utterances.discard();
        assert!(!utterances.is_wanted());
        utterances.end(None, &mut out);
        utterances.begin(0, 0);
        out.clear();
        utterances.fail_open(&ApiError::internal("it broke"), &mut out);
        let failed: Vec<&str> = out
            .iter()
            .map(|event| event["item_id"].as_str().unwrap_or_default())
            .collect();
        assert_eq!(failed, ids);
        let kind = "conversation.item.input_audio_transcription.failed";
        assert!(out.iter().all(|event| event["type"] == kind));
        assert!(utterances.is_idle());
    }
}
