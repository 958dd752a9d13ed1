//! What a conversation tells, as events of OpenAI's protocol: items, and responses that are made of them.

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use turaco::chat::ToolCall;
use turaco::voice::{VoiceEvent, Which};

use super::history::History;
use super::items::{call_item, message_item};
use super::protocol::ServerEvent;
use super::saying::{Ending, Response};
use super::session::Outbox;
use super::talking::Talking;
use crate::error::ApiError;
use crate::layer::new_id;
use crate::openai::transcriptions::logprobs;
use crate::recognition::usage;

/// An answer that was asked for in so many words, and has not begun.
#[derive(Debug, Clone)]
pub struct Asked {
    pub talking: Talking,
    pub aside: bool,
    pub metadata: Option<Map<String, Value>>,
}

/// Items and responses of one conversation.
#[derive(Debug)]
pub struct Answers {
    conversation_id: String,
    history: History,
    /// Ids of utterances by their numbers, and their lengths in seconds.
    utterances: HashMap<u64, (String, f64)>,
    /// Answers that were asked for, by number.
    asked: HashMap<u64, Asked>,
    response: Option<Response>,
    /// The newest answer's item and number, for clients that say how much of it was heard.
    newest: Option<(String, u64)>,
    has_spoken: bool,
    /// The utterance of which text was told before its end.
    told_while_heard: Option<u64>,
    /// What failed last.
    failed: Option<ApiError>,
}

impl Answers {
    /// Nothing was said yet. `beta`: also tell the names of OpenAI's beta.
    pub fn new(beta: bool) -> Self {
        Self {
            conversation_id: new_id("conv"),
            history: History::new(beta),
            utterances: HashMap::new(),
            asked: HashMap::new(),
            response: None,
            newest: None,
            has_spoken: false,
            told_while_heard: None,
            failed: None,
        }
    }

    /// Whether an answer is being given, or is to be.
    pub fn is_answering(&self) -> bool {
        self.response.is_some() || !self.asked.is_empty()
    }

    /// Whether that answer is a part of the conversation.
    pub fn is_conversing(&self) -> bool {
        let given = self.response.as_ref();
        given.is_some_and(|response| !response.aside) || self.asked.values().any(|one| !one.aside)
    }

    /// Whether this is the id of the answer that is being given.
    pub fn is_current(&self, response_id: &str) -> bool {
        let response = self.response.as_ref();
        response.is_some_and(|response| response.id == response_id)
    }

    /// Whether anything was said with a voice.
    pub fn has_spoken(&self) -> bool {
        self.has_spoken
    }

    /// What there is of the conversation.
    pub fn history(&mut self) -> &mut History {
        &mut self.history
    }

    /// An answer was asked for under this number.
    pub fn ask(&mut self, number: u64, asked: Asked) {
        self.asked.insert(number, asked);
    }

    /// The number of the answer whose item this is, if it is the newest.
    ///
    /// # Errors
    /// There is no answer of this id that could be cut.
    pub fn number_of(&self, item_id: &str) -> Result<u64, ApiError> {
        let newest = self.newest.as_ref().filter(|(id, _)| id == item_id);
        let number = newest.map(|(_, number)| *number);
        number.ok_or_else(|| match self.history.which(item_id) {
            Ok(_) => {
                let message = "only the newest answer can be cut";
                ApiError::invalid("item_id", message)
            }
            Err(error) => error,
        })
    }

    /// What happened, as events, with probabilities of what the user says if `with_logprobs`. Answers that nobody asked for in so many
    /// words are given as `talking` says.
    ///
    /// # Errors
    /// A format that the voice's sound cannot be changed to.
    pub fn tell(
        &mut self,
        event: VoiceEvent,
        (talking, with_logprobs): (&Talking, bool),
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
                let previous_item_id = self.history.last();
                out.push(
                    ServerEvent::Committed {
                        previous_item_id,
                        item_id: id.clone(),
                    }
                    .to_json(),
                );
                let content = json!([{"type": "input_audio", "transcript": null}]);
                let item = message_item(&id, "user", "completed", content);
                let which = Which::Utterance(utterance);
                self.history.add(item, which, None, out);
            }
            VoiceEvent::Hearing { utterance, text } => {
                self.told_while_heard = Some(utterance);
                let delta = ServerEvent::Delta {
                    item_id: self.utterance(utterance),
                    content_index: 0,
                    delta: text,
                    logprobs: None,
                };
                out.push(delta.to_json());
            }
            VoiceEvent::Heard {
                utterance,
                text,
                seconds,
                words,
            } => {
                let item_id = self.utterance(utterance);
                self.utterances.remove(&utterance);
                let logprobs = with_logprobs.then(|| logprobs(&words));
                // The text of an utterance is the sum of its deltas, also where it came as a whole.
                if self.told_while_heard != Some(utterance) && !text.is_empty() {
                    let delta = ServerEvent::Delta {
                        item_id: item_id.clone(),
                        content_index: 0,
                        delta: text.clone(),
                        logprobs: logprobs.clone(),
                    };
                    out.push(delta.to_json());
                }
                self.completed((item_id, text), seconds, logprobs, out);
            }
            VoiceEvent::Read {
                tag: Some(item_id),
                text,
                seconds,
                words,
            } => {
                let logprobs = with_logprobs.then(|| logprobs(&words));
                self.completed((item_id, text), seconds, logprobs, out);
            }
            VoiceEvent::HearingFailed { utterance, message } => {
                let item_id = self.utterance(utterance);
                self.utterances.remove(&utterance);
                let failed = ServerEvent::Failed {
                    item_id,
                    content_index: 0,
                    error: ApiError::failed("transcription_failed", message).body(),
                };
                out.push(failed.to_json());
            }
            VoiceEvent::AnswerStarted {
                answer,
                request,
                sample_rate,
                ..
            } => {
                self.failed = None;
                let asked = request.and_then(|number| self.asked.remove(&number));
                let asked = asked.unwrap_or_else(|| Asked {
                    talking: talking.clone(),
                    aside: false,
                    metadata: None,
                });
                let beta = self.history.is_beta();
                let conversation_id = (!asked.aside).then(|| self.conversation_id.clone());
                let response = Response::new(answer, asked, sample_rate, (conversation_id, beta))?;
                response.created(out);
                self.response = Some(response);
            }
            VoiceEvent::AnswerText { answer, text } => {
                let history = &mut self.history;
                if let Some(response) = self.response.as_mut().filter(|one| one.number == answer) {
                    let item_id = response.text(&text, history, out);
                    self.newest = Some((item_id, answer));
                }
            }
            VoiceEvent::AnswerAudio { answer, samples } => {
                let response = self.response.as_mut();
                if let Some(response) = response.filter(|one| one.number == answer) {
                    self.has_spoken = true;
                    response.audio(&samples, out);
                }
            }
            VoiceEvent::AnswerCall { answer, call } => self.call(answer, &call, out),
            VoiceEvent::AnswerEnded {
                answer,
                end,
                text,
                tokens,
                timings,
                ..
            } => {
                let failed = self.failed.take();
                let response = self.response.take_if(|one| one.number == answer);
                if let Some(response) = response {
                    let ending = Ending {
                        end,
                        text: &text,
                        tokens,
                        timings: &timings,
                        failed: failed.as_ref(),
                    };
                    response.end(&ending, &mut self.history, out);
                }
            }
            VoiceEvent::Idle { at_ms } => {
                let mut event = json!({
                    "type": "input_audio_buffer.timeout_triggered",
                    "audio_start_ms": at_ms,
                    "audio_end_ms": at_ms,
                    "item_id": self.history.last(),
                });
                event["event_id"] = new_id("event").into();
                out.push(event);
            }
            VoiceEvent::Failed { code, message } => {
                let failed = ApiError::failed(code, message);
                let error = failed.body();
                self.failed = Some(failed);
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

    /// The sound of an item is written down.
    fn completed(
        &mut self,
        (item_id, transcript): (String, String),
        seconds: f64,
        logprobs: Option<Value>,
        out: &mut Outbox,
    ) {
        self.history.set_transcript(&item_id, &transcript);
        let completed = ServerEvent::Completed {
            item_id,
            content_index: 0,
            transcript,
            usage: usage(seconds),
            logprobs,
        };
        out.push(completed.to_json());
    }

    fn call(&mut self, answer: u64, call: &ToolCall, out: &mut Outbox) {
        let Some(response) = self.response.as_mut().filter(|one| one.number == answer) else {
            return;
        };
        let id = new_id("item");
        let done = call_item(&id, "completed", call);
        let started = ToolCall {
            arguments: String::new(),
            ..call.clone()
        };
        let started = call_item(&id, "in_progress", &started);
        let output_index = response.item_added(&started, out);
        if !response.aside {
            self.history.begin(&started, out);
        }
        let mut fields = json!({"call_id": call.id, "delta": call.arguments});
        response.event(
            "function_call_arguments.delta",
            (&id, output_index),
            fields,
            out,
        );
        fields = json!({"call_id": call.id, "name": call.name, "arguments": call.arguments});
        response.event(
            "function_call_arguments.done",
            (&id, output_index),
            fields,
            out,
        );
        response.item_done(output_index, done.clone(), out);
        if !response.aside {
            self.history.done(done, Which::Call(call.id.clone()), out);
        }
    }
}
