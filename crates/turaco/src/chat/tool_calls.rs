//! Calls of functions in what a model generates.

use serde_json::Value;

use super::message::{ToolCall, is_call_id, is_function_name};
use super::prompt::ControlTokens;
use crate::text::python::dump_json;
use crate::tokenizer::Tekken;

/// Characters of the ids of calls.
const ID_CHARACTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The calls in `ids`, which are what was generated behind the token that begins calls. All layouts are understood: a list of
/// objects, and a name with arguments. `None` where it is neither. Calls without an id get one that depends on `seed` alone.
pub(super) fn parse(
    tokenizer: &Tekken,
    tokens: &ControlTokens,
    ids: &[u32],
    seed: u64,
) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    for part in ids.split(|&id| id == tokens.call) {
        let split = part.iter().position(|&id| Some(id) == tokens.arguments);
        match split {
            Some(at) => {
                let mut head = part[..at].split(|&id| Some(id) == tokens.call_id);
                let name = tokenizer.decode(head.next()?, false);
                let id = head.next().map(|id| tokenizer.decode(id, false));
                let arguments = tokenizer.decode(&part[at + 1..], false);
                calls.push(call(name.trim(), id.as_deref(), &json(&arguments)?)?);
            }
            None => {
                let Value::Array(list) = json(&tokenizer.decode(part, false))? else {
                    return None;
                };
                for item in &list {
                    let name = item.get("name")?.as_str()?;
                    let id = item.get("id").and_then(Value::as_str);
                    calls.push(call(name, id, item.get("arguments")?)?);
                }
            }
        }
    }
    let mut state = seed;
    for call in calls.iter_mut().filter(|call| call.id.is_empty()) {
        call.id = new_id(&mut state);
    }
    (!calls.is_empty()).then_some(calls)
}

/// The JSON value at the beginning of a text.
fn json(text: &str) -> Option<Value> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    values.next()?.ok()
}

fn call(name: &str, id: Option<&str>, arguments: &Value) -> Option<ToolCall> {
    let arguments = match arguments {
        Value::Object(_) => dump_json(arguments),
        // Some models write the object as a string.
        Value::String(text) => dump_json(&json(text).filter(Value::is_object)?),
        _ => return None,
    };
    is_function_name(name).then(|| ToolCall {
        id: id.filter(|id| is_call_id(id)).unwrap_or_default().into(),
        name: name.into(),
        arguments,
    })
}

/// An id that prompts can have: `id` itself, or what always stands for it.
pub fn call_id_like(id: &str) -> String {
    if is_call_id(id) {
        return id.to_owned();
    }
    // FNV-1a (Fowler, Noll, Vo 1991).
    let mut state = id.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    new_id(&mut state)
}

/// The id of the only call of a turn that is generated with this seed.
pub(super) fn call_id_of(seed: u64) -> String {
    let mut state = seed;
    new_id(&mut state)
}

fn new_id(state: &mut u64) -> String {
    let mut next = || {
        // SplitMix64 (Steele et al. 2014).
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let character = |number: u64| char::from(ID_CHARACTERS[(number % 62) as usize]);
    (0..9).map(|_| character(next())).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::prompt::PromptLayout;
    use super::*;

    fn tekken() -> Tekken {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../testdata/voxtral-mini/mistral/tekken.json"
        );
        let json = std::fs::read_to_string(path).unwrap();
        // The later versions' tokens beside those of v7.
        let json = json
            .replace("<SPECIAL_32>", "[ARGS]")
            .replace("<SPECIAL_33>", "[CALL_ID]");
        Tekken::from_json(Path::new(path), json.as_bytes(), 740).unwrap()
    }

    #[test]
    fn a_call_that_is_begun_for_the_model_is_one_call_with_what_it_writes() {
        let tekken = tekken();
        let layout = PromptLayout::new(Path::new("x"), &tekken).unwrap();
        let tokens = layout.tokens();
        let one = ["weather".to_owned()];
        let several = ["weather".to_owned(), "now".to_owned()];
        for (names, rest) in [
            (&one[..], " {\"city\": \"Bern\"}}]"),
            (
                &several[..],
                " \"weather\", \"arguments\": {\"city\": \"Bern\"}}]",
            ),
        ] {
            let begun = layout.begin_call(&tekken, names, 7).unwrap();
            assert_eq!(begun[0], tokens.call);
            let ids = [&begun[1..], &tekken.encode(rest)].concat();
            let calls = parse(&tekken, &tokens, &ids, 7).unwrap();
            assert_eq!(calls.len(), 1);
            assert_eq!(
                (calls[0].name.as_str(), calls[0].arguments.as_str()),
                ("weather", r#"{"city": "Bern"}"#)
            );
        }
    }

    #[test]
    fn calls_of_every_layout_are_understood() {
        let tekken = tekken();
        let layout = PromptLayout::new(Path::new("x"), &tekken).unwrap();
        let tokens = layout.tokens();
        let parse_ids = |ids: &[u32]| parse(&tekken, &tokens, ids, 7);
        let list = r#"[{"name": "weather", "arguments": {"city": "Zürich"}, "id": "a1B2c3D4e"}, {"name": "now", "arguments": {}}]"#;
        let calls = parse_ids(&tekken.encode(list)).unwrap();
        assert_eq!(calls[0].id, "a1B2c3D4e");
        assert_eq!(calls[0].arguments, r#"{"city": "Zürich"}"#);
        assert_eq!((calls[1].name.as_str(), calls[1].id.len()), ("now", 9));
        assert!(is_call_id(&calls[1].id));

        let mut ids = tekken.encode("weather");
        ids.push(33);
        ids.extend(tekken.encode("a1B2c3D4e"));
        ids.push(32);
        ids.extend(tekken.encode("{\"city\": \"Bern\"}"));
        ids.push(tokens.call);
        ids.extend(tekken.encode("now"));
        ids.push(32);
        ids.extend(tekken.encode("{}"));
        let calls = parse_ids(&ids).unwrap();
        assert_eq!(calls.len(), 2);
        assert_eq!(
            (calls[0].name.as_str(), calls[0].id.as_str()),
            ("weather", "a1B2c3D4e")
        );

        let stands = call_id_like("call_12345678901234567890");
        assert!(is_call_id(&stands));
        assert_eq!(stands, call_id_like("call_12345678901234567890"));
        assert_ne!(stands, call_id_like("call_12345678901234567891"));
        assert_eq!(call_id_like("a1B2c3D4e"), "a1B2c3D4e");

        for broken in [
            "[{\"name\": \"x\"",
            "{}",
            "[]",
            "[{\"name\": \"a b\", \"arguments\": {}}]",
            "no",
        ] {
            assert_eq!(parse_ids(&tekken.encode(broken)), None, "{broken}");
        }
    }
}
