//! What was said so far, by whom.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

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
    /// Its place among all that was ever said.
    #[serde(skip)]
    pub(super) id: u64,
    /// Number of the answer, of what a mind said.
    #[serde(skip)]
    pub(super) answer: Option<u64>,
    /// Number of the utterance, of a user who was listened to.
    #[serde(skip)]
    pub utterance: Option<u64>,
    /// Of an answer: it was cut off, and the text is what was heard of it.
    #[serde(skip_serializing_if = "is_false")]
    pub interrupted: bool,
}

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
            id: 0,
            answer: None,
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
}

/// What a session keeps.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ConversationOptions {
    /// What the mind is told before everything else.
    pub instructions: Option<String>,
    /// Questions, with their answers, that the mind is reminded of.
    pub context_turns: usize,
    /// Characters of text that the mind is given at most; whole turns are left out, the oldest first.
    pub context_characters: usize,
    /// Messages that are kept at all.
    pub max_history: usize,
}

impl Default for ConversationOptions {
    fn default() -> Self {
        Self {
            instructions: None,
            context_turns: 5,
            context_characters: 24_000,
            max_history: 100,
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
}

impl Conversation {
    /// Nothing was said yet.
    pub fn new(options: ConversationOptions) -> Self {
        Self {
            options,
            messages: Vec::new(),
            n_said: 0,
        }
    }

    /// Replace what the mind is told before everything else.
    pub fn set_instructions(&mut self, instructions: Option<String>) {
        self.options.instructions = instructions;
    }

    /// Something was said. The oldest messages are forgotten when there are too many.
    pub fn push(&mut self, message: Message) {
        self.insert(self.messages.len(), message);
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
        let limit = self.options.max_history.max(1);
        if self.messages.len() > limit {
            self.messages.drain(..self.messages.len() - limit);
        }
        // Sound is large: only what the mind is still reminded of is kept.
        let kept = self.first_in_context();
        for message in &mut self.messages[..kept] {
            message.sound = None;
        }
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
        match text.trim().is_empty() {
            true => self
                .messages
                .retain(|message| message.answer != Some(number)),
            false => {
                let messages = self.messages.iter_mut();
                for message in messages.filter(|message| message.answer == Some(number)) {
                    message.text = text.to_owned();
                    message.interrupted = true;
                }
            }
        }
    }

    /// Whether the user has said something that nobody answered.
    pub(super) fn is_open(&self) -> bool {
        let last = self.messages.last();
        last.is_some_and(|message| message.role == Role::User)
    }

    /// Forget everything but the instructions.
    pub fn clear(&mut self) {
        self.messages.clear();
    }

    /// What the mind is given: the instructions, then whole turns, the last of which is the question.
    pub fn context(&self) -> Vec<Message> {
        let instructions = self.options.instructions.iter();
        let instructions = instructions.map(|text| Message::new(Role::System, text.clone()));
        let turns = self.messages[self.first_in_context()..].iter().cloned();
        instructions.chain(turns).collect()
    }

    /// Where the context begins: at a message of the user, unless there is none.
    fn first_in_context(&self) -> usize {
        let mut first = self.messages.len();
        let (mut turns, mut characters) = (0, 0);
        let mut in_user = false;
        for (index, message) in self.messages.iter().enumerate().rev() {
            characters += message.text.chars().count();
            // Messages of the user that follow each other are one question.
            let begins_turn = message.role == Role::User && !in_user;
            in_user = message.role == Role::User;
            turns += usize::from(begins_turn);
            let too_much = characters > self.options.context_characters && turns > 1;
            if turns > self.options.context_turns.max(1) || too_much {
                break;
            }
            if message.role == Role::User {
                first = index;
            }
        }
        match first < self.messages.len() {
            true => first,
            false => 0,
        }
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
    fn the_context_is_whole_turns_behind_the_instructions() {
        let options = ConversationOptions {
            instructions: Some("Be brief.".into()),
            context_turns: 2,
            ..ConversationOptions::default()
        };
        let mut conversation = conversation(options, 4);
        conversation.push(Message::new(Role::User, "one more"));
        conversation.push(Message::new(Role::User, "and this"));
        assert_eq!(
            texts(&conversation.context()),
            [
                "Be brief.",
                "question 3",
                "answer 3",
                "one more",
                "and this"
            ]
        );
    }

    #[test]
    fn long_turns_are_left_out_but_never_the_question() {
        let options = ConversationOptions {
            context_characters: 30,
            ..ConversationOptions::default()
        };
        let mut conversation = conversation(options, 3);
        conversation.push(Message::new(Role::User, "x".repeat(100)));
        assert_eq!(texts(&conversation.context()), ["x".repeat(100)]);
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
