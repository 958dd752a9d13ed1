//! What was said so far, by whom.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::chat::ToolCall;

use super::request::{AnswerRequest, InputPart};

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// What was laid down before the conversation.
    System,
    /// The one who asks.
    User,
    /// The one who answers.
    Assistant,
    /// What a function came to that the one who answers called.
    Tool,
}

/// Something that was said.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Message {
    /// By whom.
    pub role: Role,
    /// In words; of a user who was only listened to, it may be empty.
    pub text: String,
    /// The sound, mono at 16 kHz, of a user whom the mind hears itself.
    #[serde(skip)]
    pub sound: Option<Arc<[f32]>>,
    /// Seconds since 1970.
    pub time: f64,
    /// Of an answer: milliseconds from the end of the question to its first text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<u64>,
    /// Functions that the one who answers called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<ToolCall>,
    /// The call whose result this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    /// What the caller knows it by.
    #[serde(skip)]
    pub tag: Option<String>,
    /// Its place among all that was ever said.
    #[serde(skip)]
    pub(super) id: u64,
    /// Number of the answer, of what a mind said.
    #[serde(skip)]
    pub(super) answer: Option<u64>,
    /// The mind is not reminded of it any more.
    #[serde(skip)]
    left_out: bool,
    /// Number of the utterance, of a user who was listened to.
    #[serde(skip)]
    pub utterance: Option<u64>,
    /// Of an answer: it was cut off, and the text is what was heard of it.
    #[serde(skip_serializing_if = "is_false")]
    pub interrupted: bool,
}

/// Samples that Voxtral reads at once, and tokens that they are.
const PIECE: usize = 30 * 16_000;
const PIECE_TOKENS: usize = 375;

/// Tokens around a message.
const AROUND: usize = 4;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Message {
    /// Words of somebody, said now.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            role,
            text: text.into(),
            sound: None,
            time: now.map_or(0.0, |now| now.as_secs_f64()),
            latency_ms: None,
            calls: Vec::new(),
            call_id: None,
            tag: None,
            id: 0,
            answer: None,
            left_out: false,
            utterance: None,
            interrupted: false,
        }
    }

    /// With the sound in which it was said.
    #[must_use]
    pub fn with_sound(mut self, sound: Arc<[f32]>) -> Self {
        self.sound = Some(sound);
        self
    }

    /// What a function came to.
    pub fn result(call_id: impl Into<String>, output: impl Into<String>) -> Self {
        Self {
            call_id: Some(call_id.into()),
            ..Self::new(Role::Tool, output)
        }
    }

    /// Functions that the one who answers called.
    pub fn of_calls(calls: Vec<ToolCall>) -> Self {
        Self {
            calls,
            ..Self::new(Role::Assistant, "")
        }
    }

    /// With a name by which the caller will know it.
    #[must_use]
    pub fn tagged(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// About how many tokens it is for the one who answers: one for three bytes of text, and as many as Voxtral has for sound, which
    /// it reads in pieces of half a minute.
    pub fn tokens(&self) -> usize {
        let calls = self.calls.iter();
        let calls = calls.map(|call| call.id.len() + call.name.len() + call.arguments.len());
        let content = match &self.sound {
            Some(sound) => sound.len().div_ceil(PIECE) * PIECE_TOKENS,
            None => self.text.len().div_ceil(3),
        };
        content + calls.sum::<usize>().div_ceil(3) + AROUND
    }

    fn is(&self, which: &Which) -> bool {
        match which {
            Which::Utterance(number) => self.utterance == Some(*number),
            Which::Answer(number) => self.answer == Some(*number),
            Which::Call(id) => self.calls.iter().any(|call| call.id == *id),
            Which::Tag(tag) => self.tag.as_ref() == Some(tag),
        }
    }
}

/// Something that was said, by what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// What the user said, by its number.
    Utterance(u64),
    /// An answer, by its number.
    Answer(u64),
    /// A call of a function, by its id.
    Call(String),
    /// What the caller added under this name.
    Tag(String),
}

/// Where something is added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Place {
    /// Behind everything.
    #[default]
    End,
    /// Before everything but the instructions.
    Start,
    /// Behind this; behind everything if it is not there any more.
    Behind(Which),
}

/// What a session keeps.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ConversationOptions {
    /// What the mind is told before everything else.
    pub instructions: Option<String>,
    /// Questions, with their answers, that the mind is reminded of at most.
    pub context_turns: usize,
    /// Tokens of what was said that the mind is given at most, by [estimate](Message::tokens); a mind may have room for less. When
    /// there is more, the older half of it is left out at once: a mind that remembers what it has read then reads the rest once,
    /// and not again in every turn.
    pub context_tokens: usize,
    /// Messages that are kept at all.
    pub max_history: usize,
}

impl Default for ConversationOptions {
    fn default() -> Self {
        Self {
            instructions: None,
            context_turns: usize::MAX,
            context_tokens: 8192,
            max_history: 1000,
        }
    }
}

/// Numbers about a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Messages of the user.
    pub user_messages: usize,
    /// Answers.
    pub assistant_messages: usize,
    /// Answers that were cut off.
    pub interrupted: usize,
    /// Characters of text.
    pub characters: usize,
    /// Milliseconds to the first text of an answer, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average_latency_ms: Option<f64>,
}

/// A history of one session; nobody else sees it.
#[derive(Debug, Clone, Default)]
pub struct Conversation {
    options: ConversationOptions,
    messages: Vec<Message>,
    /// Messages so far, forgotten ones included.
    n_said: u64,
    /// Tokens that the mind has room for, if it is known.
    room: Option<usize>,
}

impl Conversation {
    /// Nothing was said yet.
    pub fn new(options: ConversationOptions) -> Self {
        Self {
            options,
            messages: Vec::new(),
            n_said: 0,
            room: None,
        }
    }

    /// Replace what the mind is told before everything else.
    pub fn set_instructions(&mut self, instructions: Option<String>) {
        self.options.instructions = instructions;
    }

    /// The mind has room for so many tokens.
    pub(super) fn set_room(&mut self, tokens: Option<usize>) {
        self.room = tokens;
        self.fit();
    }

    /// Something was said. The oldest messages are forgotten when there are too many.
    pub fn push(&mut self, message: Message) {
        self.insert(self.messages.len(), message);
    }

    /// Something is put in somewhere.
    pub fn put(&mut self, message: Message, place: &Place) {
        let at = match place {
            Place::End => None,
            Place::Start => Some(0),
            Place::Behind(which) => {
                let found = self.messages.iter().rposition(|known| known.is(which));
                found.map(|at| at + 1)
            }
        };
        self.insert(at.unwrap_or(self.messages.len()), message);
    }

    /// Something was never said; whether it was there.
    pub fn remove(&mut self, which: &Which) -> bool {
        let before = self.messages.len();
        let mut found = false;
        self.messages.retain_mut(|message| {
            if !message.is(which) {
                return true;
            }
            found = true;
            match which {
                Which::Utterance(_) | Which::Tag(_) => return false,
                Which::Answer(_) => message.text.clear(),
                Which::Call(id) => message.calls.retain(|call| call.id != *id),
            }
            !message.text.is_empty() || !message.calls.is_empty()
        });
        found || self.messages.len() < before
    }

    /// Something was said about message `question`, behind which others may have come meanwhile.
    pub(super) fn push_behind(&mut self, question: Option<u64>, message: Message) {
        let at = self
            .messages
            .iter()
            .position(|known| Some(known.id) == question);
        self.insert(at.map_or(self.messages.len(), |at| at + 1), message);
    }

    fn insert(&mut self, at: usize, mut message: Message) {
        self.n_said += 1;
        message.id = self.n_said;
        self.messages.insert(at, message);
        self.fit();
        while self.messages.len() > self.options.max_history.max(1) {
            // What was laid down stays as long as anything else can go.
            let is_said = |message: &Message| message.role != Role::System;
            let oldest = self.messages.iter().position(is_said).unwrap_or(0);
            if !self.messages[oldest].left_out {
                self.leave_out(self.n_turns() / 2, self.tokens() / 2);
            }
            self.messages.remove(oldest);
        }
        // Sound is large: only what the mind is still reminded of is kept.
        for message in self.messages.iter_mut().filter(|message| message.left_out) {
            message.sound = None;
        }
    }

    /// Leave out the older half when there is more than the mind may be given.
    fn fit(&mut self) {
        let most = self.options.context_tokens;
        let most = self.room.map_or(most, |room| most.min(room));
        if self.n_turns() > self.options.context_turns.max(1) || self.tokens() > most {
            self.leave_out(self.options.context_turns / 2, most / 2);
        }
    }

    /// Leave out the oldest turns until there are so many, and so many tokens, left; never the newest turn.
    fn leave_out(&mut self, turns: usize, tokens: usize) {
        let (mut n_turns, mut n_tokens) = (self.n_turns(), self.tokens());
        if n_turns <= 1 {
            return;
        }
        let mut in_user = false;
        // What comes before the first turn goes with it.
        let mut is_first = true;
        for message in &mut self.messages {
            if message.left_out || message.role == Role::System {
                continue;
            }
            let begins_turn = message.role == Role::User && !in_user;
            in_user = message.role == Role::User;
            if begins_turn && !std::mem::take(&mut is_first) {
                n_turns -= 1;
                if n_turns <= 1 || (n_turns <= turns && n_tokens <= tokens) {
                    return;
                }
            }
            message.left_out = true;
            n_tokens -= message.tokens();
        }
    }

    /// Whole turns that the mind is reminded of. Messages of the user that follow each other are one question.
    fn n_turns(&self) -> usize {
        let mut n_turns = 0;
        let mut in_user = false;
        for message in self.reminded().filter(|said| said.role != Role::System) {
            n_turns += usize::from(message.role == Role::User && !in_user);
            in_user = message.role == Role::User;
        }
        n_turns
    }

    fn tokens(&self) -> usize {
        self.reminded().map(Message::tokens).sum()
    }

    /// What the mind is reminded of: what was laid down, and the newest turns.
    fn reminded(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(|message| !message.left_out)
    }

    /// Everything that is kept.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The newest message of `role`.
    pub fn last(&self, role: Role) -> Option<&Message> {
        self.messages
            .iter()
            .rev()
            .find(|message| message.role == role)
    }

    /// What was said in an utterance whose sound is here already.
    pub(super) fn complete(&mut self, utterance: u64, text: String) {
        let message = self.messages.iter_mut().rev();
        let mut message = message.filter(|message| message.utterance == Some(utterance));
        if let Some(message) = message.next() {
            message.text = text;
        }
    }

    /// Less was heard of an answer than was thought.
    pub(super) fn correct_answer(&mut self, number: u64, text: &str) {
        self.messages.retain_mut(|message| {
            if message.answer == Some(number) {
                text.trim().clone_into(&mut message.text);
                message.interrupted = true;
                return !message.text.is_empty() || !message.calls.is_empty();
            }
            true
        });
    }

    /// Whether the user, or a function, has said something that nobody answered.
    pub(super) fn is_open(&self) -> bool {
        let last = self.messages.last();
        last.is_some_and(|message| matches!(message.role, Role::User | Role::Tool))
    }

    /// The number of what was said last.
    pub(super) fn last_id(&self) -> Option<u64> {
        self.messages.last().map(|message| message.id)
    }

    /// Forget everything but the instructions.
    pub fn clear(&mut self) {
        self.messages.clear();
    }

    /// What the mind is given: the instructions, whatever else was laid down, and whole turns, the last of which is the question. What
    /// the mind said before the first turn is there as long as that is.
    pub fn context(&self) -> Vec<Message> {
        self.context_for(&AnswerRequest::default())
    }

    /// What the mind is given for an answer that was asked for.
    pub(super) fn context_for(&self, request: &AnswerRequest) -> Vec<Message> {
        let instructions = request.instructions.as_ref();
        let instructions = instructions.or(self.options.instructions.as_ref());
        let instructions = instructions.filter(|text| !text.trim().is_empty());
        let instructions = instructions.map(|text| Message::new(Role::System, text.clone()));
        let said: Vec<Message> = match &request.input {
            None => self.reminded().cloned().collect(),
            Some(parts) => parts.iter().flat_map(|part| self.part(part)).collect(),
        };
        instructions.into_iter().chain(with_results(said)).collect()
    }

    fn part(&self, part: &InputPart) -> Vec<Message> {
        let which = match part {
            InputPart::Message(message) => return vec![message.clone()],
            InputPart::Kept(which) => which,
        };
        let found = self.messages.iter().filter(|message| message.is(which));
        let mut found: Vec<Message> = found.cloned().collect();
        // Of an answer only the words, of a call only that one.
        for message in &mut found {
            match which {
                Which::Call(id) => {
                    message.text.clear();
                    message.calls.retain(|call| call.id == *id);
                }
                Which::Answer(_) => message.calls.clear(),
                Which::Utterance(_) | Which::Tag(_) => {}
            }
        }
        found
    }

    /// Numbers about all that is kept.
    pub fn summary(&self) -> Summary {
        let of = |role| {
            self.messages
                .iter()
                .filter(move |message| message.role == role)
        };
        let latencies: Vec<f64> = of(Role::Assistant)
            .filter_map(|message| message.latency_ms)
            .map(|ms| ms as f64)
            .collect();
        let characters = self
            .messages
            .iter()
            .map(|message| message.text.chars().count());
        Summary {
            user_messages: of(Role::User).count(),
            assistant_messages: of(Role::Assistant).count(),
            interrupted: of(Role::Assistant)
                .filter(|message| message.interrupted)
                .count(),
            characters: characters.sum(),
            average_latency_ms: (!latencies.is_empty())
                .then(|| latencies.iter().sum::<f64>() / latencies.len() as f64),
        }
    }

    /// All that is kept as JSON: `{"messages", "summary"}`.
    pub fn to_json(&self) -> String {
        serde_json::json!({ "messages": self.messages, "summary": self.summary() }).to_string()
    }
}

/// Every call with its result right behind it: minds know no other order, and no calls without results.
fn with_results(said: Vec<Message>) -> Vec<Message> {
    let is_result = |message: &Message| message.role == Role::Tool;
    let (mut results, said): (Vec<Message>, Vec<Message>) = said.into_iter().partition(is_result);
    let mut settled = Vec::with_capacity(said.len() + results.len());
    for mut message in said {
        let mut behind = Vec::new();
        message.calls.retain(|call| {
            let of_call = |result: &Message| result.call_id.as_ref() == Some(&call.id);
            let place = results.iter().position(of_call);
            behind.extend(place.map(|place| results.remove(place)));
            place.is_some()
        });
        let is_empty = message.role == Role::Assistant
            && message.text.trim().is_empty()
            && message.calls.is_empty();
        if !is_empty {
            settled.push(message);
        }
        settled.append(&mut behind);
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(options: ConversationOptions, turns: usize) -> Conversation {
        let mut conversation = Conversation::new(options);
        for turn in 0..turns {
            conversation.push(Message::new(Role::User, format!("question {turn}")));
            let mut answer = Message::new(Role::Assistant, format!("answer {turn}"));
            answer.latency_ms = Some(10 * turn as u64);
            conversation.push(answer);
        }
        conversation
    }

    fn texts(messages: &[Message]) -> Vec<&str> {
        messages
            .iter()
            .map(|message| message.text.as_str())
            .collect()
    }

    #[test]
    fn the_older_half_goes_at_once_so_that_the_rest_begins_alike() {
        let options = ConversationOptions {
            instructions: Some("Be brief.".into()),
            context_turns: 4,
            ..ConversationOptions::default()
        };
        let mut conversation = Conversation::new(options);
        conversation.push(Message::new(Role::Assistant, "Welcome!"));
        let mut firsts = Vec::new();
        for turn in 0..8 {
            conversation.push(Message::new(Role::User, format!("question {turn}")));
            conversation.push(Message::new(Role::User, format!("more {turn}")));
            firsts.push(conversation.context()[1].text.clone());
            conversation.push(Message::new(Role::Assistant, format!("answer {turn}")));
        }
        let third = ["question 3"; 3];
        assert_eq!(
            firsts,
            [&["Welcome!"; 4][..], &third, &["question 6"]].concat()
        );
        assert_eq!(
            texts(&conversation.context()),
            [
                "Be brief.",
                "question 6",
                "more 6",
                "answer 6",
                "question 7",
                "more 7",
                "answer 7"
            ]
        );
    }

    #[test]
    fn what_was_laid_down_is_never_left_out() {
        let options = ConversationOptions {
            context_tokens: 60,
            max_history: 6,
            ..ConversationOptions::default()
        };
        let mut conversation = Conversation::new(options);
        conversation.push(Message::new(Role::System, "The user is called Ada."));
        conversation.push(Message::new(Role::Assistant, "Hello, Ada!"));
        for turn in 0..9 {
            conversation.push(Message::new(Role::User, format!("question {turn}")));
            let context = conversation.context();
            assert_eq!(context[0].text, "The user is called Ada.");
            assert_eq!(context[1].text == "Hello, Ada!", turn < 2, "{turn}");
            assert_eq!(context.last().unwrap().text, format!("question {turn}"));
            let tokens = context.iter().map(Message::tokens).sum::<usize>();
            assert!(tokens <= 60, "{tokens}");
            conversation.push(Message::new(Role::Assistant, format!("answer {turn}")));
        }
        assert_eq!(conversation.messages().len(), 6);
        // A mind with less room is given less.
        conversation.set_room(Some(10));
        assert_eq!(
            texts(&conversation.context())[1..],
            ["question 8", "answer 8"]
        );
    }

    #[test]
    fn long_turns_are_left_out_but_never_the_question() {
        let options = ConversationOptions {
            context_tokens: 40,
            ..ConversationOptions::default()
        };
        let mut conversation = conversation(options, 3);
        conversation.push(Message::new(Role::User, "x".repeat(300)));
        assert_eq!(texts(&conversation.context()), ["x".repeat(300)]);
    }

    #[test]
    fn history_is_bounded_and_sums_up() {
        let options = ConversationOptions {
            max_history: 5,
            ..ConversationOptions::default()
        };
        let conversation = conversation(options, 10);
        assert_eq!(conversation.messages().len(), 5);
        let summary = conversation.summary();
        assert_eq!((summary.user_messages, summary.assistant_messages), (2, 3));
        assert_eq!(summary.average_latency_ms, Some(80.0));
        let json: serde_json::Value = serde_json::from_str(&conversation.to_json()).unwrap();
        assert_eq!(json["messages"][4]["role"], "assistant");
        assert_eq!(json["summary"]["user_messages"], 2);
    }

    fn call(id: &str) -> ToolCall {
        ToolCall {
            id: id.into(),
            name: "clock".into(),
            arguments: "{}".into(),
        }
    }

    #[test]
    fn results_stand_behind_their_calls_and_calls_without_one_are_left_out() {
        let mut conversation = Conversation::new(ConversationOptions::default());
        conversation.push(Message::new(Role::User, "What time is it?"));
        // The result comes before the answer that asked for it is over.
        conversation.push(Message::result("one", "noon"));
        assert!(conversation.is_open());
        conversation.push(Message::new(Role::User, "And where?"));
        let question = conversation.messages()[0].id;
        let mut answer = Message::of_calls(vec![call("one"), call("two")]);
        answer.answer = Some(1);
        conversation.push_behind(Some(question), answer);
        conversation.push(Message::result("three", "nobody asked"));
        let context = conversation.context();
        let roles: Vec<Role> = context.iter().map(|message| message.role).collect();
        assert_eq!(roles, [Role::User, Role::Assistant, Role::Tool, Role::User]);
        assert_eq!(context[1].calls, [call("one")]);
        // What was not heard of an answer is no reason to forget its calls.
        conversation.correct_answer(1, "");
        assert_eq!(conversation.context().len(), 4);
        assert!(conversation.remove(&Which::Call("one".into())));
        assert_eq!(conversation.context().len(), 2);
    }

    #[test]
    fn messages_are_put_in_and_taken_out_by_name() {
        let mut conversation = conversation(ConversationOptions::default(), 1);
        conversation.push(Message::new(Role::User, "b").tagged("b"));
        let behind = Place::Behind(Which::Tag("b".into()));
        conversation.push(Message::new(Role::User, "d"));
        conversation.put(Message::new(Role::User, "c").tagged("c"), &behind);
        conversation.put(Message::new(Role::System, "a"), &Place::Start);
        let all = texts(conversation.messages()).join(" ");
        assert_eq!(all, "a question 0 answer 0 b c d");
        assert!(conversation.remove(&Which::Tag("c".into())));
        assert!(!conversation.remove(&Which::Tag("c".into())));
        let mut request = AnswerRequest {
            instructions: Some("Be short.".into()),
            input: Some(vec![
                InputPart::Kept(Which::Tag("b".into())),
                InputPart::Message(Message::new(Role::User, "x")),
            ]),
            ..AnswerRequest::default()
        };
        let context = conversation.context_for(&request);
        assert_eq!(texts(&context), ["Be short.", "b", "x"]);
        request.input = Some(Vec::new());
        assert_eq!(conversation.context_for(&request).len(), 1);
    }

    #[test]
    fn sound_is_forgotten_with_its_turn() {
        let options = ConversationOptions {
            context_turns: 1,
            ..ConversationOptions::default()
        };
        let mut conversation = Conversation::new(options);
        for _ in 0..2 {
            let sound = Arc::from(vec![0.0_f32; 16]);
            conversation.push(Message::new(Role::User, "").with_sound(sound));
            conversation.push(Message::new(Role::Assistant, "yes"));
        }
        let kept = conversation.messages().iter();
        let kept: Vec<bool> = kept.map(|message| message.sound.is_some()).collect();
        assert_eq!(kept, [false, false, true, false]);
    }
}
