//! The items of a conversation that can be asked for, taken out and referred to.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};
use turaco::voice::{Place, Which};

use super::protocol::ServerEvent;
use super::session::Outbox;
use crate::error::ApiError;

/// Items that can be asked for again.
const REMEMBERED: usize = 1000;

/// What stands for the place in front of all items.
const ROOT: &str = "root";

/// Items in the order in which they came.
#[derive(Debug, Default)]
pub struct History {
    /// Also tell the names of OpenAI's beta.
    beta: bool,
    items: VecDeque<Item>,
    last: Option<String>,
    /// In front of items that have begun: their ids, and those of the items before them.
    begun: HashMap<String, Option<String>>,
}

#[derive(Debug)]
struct Item {
    id: String,
    /// What it is to the conversation.
    which: Which,
    json: Value,
}

impl History {
    /// No items; with the names of OpenAI's beta if `beta`.
    pub fn new(beta: bool) -> Self {
        Self {
            beta,
            ..Self::default()
        }
    }

    /// Whether the names of OpenAI's beta are told too.
    pub fn is_beta(&self) -> bool {
        self.beta
    }

    /// The id of the newest item.
    pub fn last(&self) -> Option<String> {
        self.last.clone()
    }

    /// A new item that is there as a whole, behind the one of id `previous` (`root`: in front of all) or the newest.
    pub fn add(&mut self, item: Value, which: Which, previous: Option<String>, out: &mut Outbox) {
        let is_last = previous.is_none() || previous == self.last;
        let (previous, at) = match previous {
            Some(id) if id == ROOT => (None, Some(0)),
            Some(id) => {
                let index = self.items.iter().position(|item| item.id == id);
                (Some(id), index.map(|index| index + 1))
            }
            None => (self.last.clone(), None),
        };
        self.tell_added(previous.clone(), item.clone(), out);
        if is_last || self.last.is_none() {
            self.last = Some(id_of(&item));
        }
        let at = at.filter(|_| !is_last).unwrap_or(self.items.len());
        self.remember(at, item.clone(), which);
        let done = ServerEvent::ItemDone {
            previous_item_id: previous,
            item,
        };
        out.push(done.to_json());
    }

    /// A new item of which more is to come.
    pub fn begin(&mut self, item: &Value, out: &mut Outbox) {
        let id = id_of(item);
        let previous = self.last.replace(id.clone());
        self.begun.insert(id, previous.clone());
        self.tell_added(previous, item.clone(), out);
    }

    /// Nothing more of it is to come.
    pub fn done(&mut self, item: Value, which: Which, out: &mut Outbox) {
        let previous_item_id = self.begun.remove(&id_of(&item)).flatten();
        self.remember(self.items.len(), item.clone(), which);
        let done = ServerEvent::ItemDone {
            previous_item_id,
            item,
        };
        out.push(done.to_json());
    }

    fn tell_added(&self, previous_item_id: Option<String>, item: Value, out: &mut Outbox) {
        if self.beta {
            let created = ServerEvent::ItemCreated {
                previous_item_id: previous_item_id.clone(),
                item: item.clone(),
            };
            out.push(created.to_json());
        }
        let added = ServerEvent::ItemAdded {
            previous_item_id,
            item,
        };
        out.push(added.to_json());
    }

    fn remember(&mut self, at: usize, json: Value, which: Which) {
        let id = id_of(&json);
        self.items.insert(at, Item { id, which, json });
        if self.items.len() > REMEMBERED {
            self.items.pop_front();
        }
    }

    fn find(&self, id: &str) -> Result<&Item, ApiError> {
        let found = self.items.iter().find(|item| item.id == id);
        found.ok_or_else(|| no_item(id))
    }

    /// What an item is to the conversation.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn which(&self, id: &str) -> Result<Which, ApiError> {
        self.find(id).map(|item| item.which.clone())
    }

    /// Where an item goes that is to stand behind the one of this id.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn behind(&self, id: Option<&str>) -> Result<Place, ApiError> {
        match id {
            None => Ok(Place::End),
            Some(ROOT) => Ok(Place::Start),
            Some(id) => match self.which(id) {
                Ok(which) => Ok(Place::Behind(which)),
                Err(error) => Err(error.about("previous_item_id")),
            },
        }
    }

    /// Whether a function was called under this id.
    pub fn has_call(&self, call_id: &str) -> bool {
        let mut items = self.items.iter();
        items.any(|item| matches!(&item.which, Which::Call(id) if id == call_id))
    }

    /// What was said in an item.
    pub fn set_transcript(&mut self, id: &str, transcript: &str) {
        let found = self.items.iter_mut().find(|item| item.id == id);
        let content = found.and_then(|item| item.json["content"].as_array_mut());
        for part in content.into_iter().flatten() {
            if part.get("transcript").is_some() {
                part["transcript"] = transcript.into();
            }
        }
    }

    /// Tell an item again.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn retrieve(&self, id: &str) -> Result<ServerEvent, ApiError> {
        let item = self.find(id)?.json.clone();
        Ok(ServerEvent::ItemRetrieved { item })
    }

    /// Forget an item; what it was to the conversation.
    ///
    /// # Errors
    /// There is none of this id.
    pub fn delete(&mut self, id: &str) -> Result<Which, ApiError> {
        let which = self.which(id)?;
        self.items.retain(|item| item.id != id);
        if self.last.as_deref() == Some(id) {
            self.last = self.items.back().map(|item| item.id.clone());
        }
        Ok(which)
    }
}

fn id_of(item: &Value) -> String {
    item["id"].as_str().unwrap_or_default().to_owned()
}

fn no_item(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no item `{id}`")).about("item_id")
}

/// A part of an answer's message.
pub fn part(with_sound: bool, text: &str) -> Value {
    match with_sound {
        true => json!({"type": "output_audio", "transcript": text}),
        false => json!({"type": "output_text", "text": text}),
    }
}
