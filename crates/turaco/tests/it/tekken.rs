//! Tekken vocabularies beside mistral-common: text to tokens and back, and conversations as prompts.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use turaco::Audio;
use turaco::chat::{
    AudioClip, Message, Part, PromptLayout, PromptOptions, PromptPart, Tool, ToolCall,
};
use turaco::tokenizer::Tekken;

/// The sets of reference numbers: the small one in the repository, and the one with the whole vocabulary beside it.
fn sets() -> Vec<Set> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let small = root.join("../../testdata/voxtral-mini");
    let mut sets = vec![Set {
        vocabulary: read(&small.join("mistral/tekken.json")),
        n_vocab: 740,
        // 10 s in chunks, ten tokens per second.
        chunk: (160_000, 100),
        folder: small,
        prompts: "prompts.json",
    }];
    let shared = root.join("../../../shared/golden");
    if shared.exists() {
        let like = read(&shared.join("voxtral-mini/hf/tekken.json"));
        sets.push(Set {
            vocabulary: whole_vocabulary(&shared.join("tekken/vocab.bin"), &like),
            n_vocab: 131_072,
            chunk: (480_000, 375),
            folder: shared.join("tekken"),
            prompts: "voxtral_prompts.json",
        });
    }
    sets
}

struct Set {
    vocabulary: Value,
    n_vocab: usize,
    /// Samples and audio tokens of a chunk.
    chunk: (usize, usize),
    folder: PathBuf,
    prompts: &'static str,
}

impl Set {
    /// The vocabulary as one of this version.
    fn tekken(&self, version: &str) -> Tekken {
        let mut vocabulary = self.vocabulary.clone();
        vocabulary["config"]["version"] = json!(version);
        if version != "v7" {
            vocabulary["special_tokens"][32]["token_str"] = json!("[ARGS]");
            vocabulary["special_tokens"][33]["token_str"] = json!("[CALL_ID]");
        }
        let bytes = serde_json::to_vec(&vocabulary).unwrap();
        Tekken::from_json(Path::new("tekken.json"), &bytes, self.n_vocab).unwrap()
    }

    fn list(&self, name: &str) -> Vec<Value> {
        match read(&self.folder.join(name)) {
            Value::Array(list) => list,
            other => panic!("{name}: {other}"),
        }
    }

    fn ids(&self, parts: &[PromptPart]) -> Vec<u32> {
        let (samples, tokens) = self.chunk;
        let ids = parts.iter().flat_map(|part| match part {
            PromptPart::Tokens(ids) => ids.clone(),
            PromptPart::Audio(clip) => {
                let n_chunks = clip.samples().len().div_ceil(samples).max(1);
                vec![24; n_chunks * tokens]
            }
        });
        ids.collect()
    }
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A `tekken.json` of the tokens in `path`: a magic word, two numbers, then a length and bytes for each token.
fn whole_vocabulary(path: &Path, like: &Value) -> Value {
    use base64::Engine;
    let bytes = std::fs::read(path).unwrap();
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (n_tokens, n_special) = (number(4), number(8));
    let mut at = 12;
    let mut vocab = Vec::new();
    for rank in 0..n_tokens {
        let token = &bytes[at + 1..][..bytes[at] as usize];
        at += 1 + token.len();
        let token = base64::engine::general_purpose::STANDARD.encode(token);
        vocab.push(json!({"rank": rank, "token_bytes": token}));
    }
    let mut whole = like.clone();
    whole["vocab"] = vocab.into();
    whole["config"]["default_vocab_size"] = json!(n_tokens + n_special);
    whole["config"]["default_num_special_tokens"] = json!(n_special);
    whole
}

fn numbers(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap();
    list.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// `[[id, count], ...]`
fn runs(value: &Value) -> Vec<u32> {
    let list = value.as_array().unwrap().iter().map(numbers);
    list.flat_map(|run| vec![run[0]; run[1] as usize]).collect()
}

#[test]
fn text_becomes_the_same_tokens() {
    for set in sets() {
        let tekken = set.tekken("v7");
        for case in set.list("strings.json") {
            let text = case["text"].as_str().unwrap();
            let expected = numbers(&case["ids"]);
            assert_eq!(tekken.encode(text), expected, "{text:?}");
            assert_eq!(tekken.decode(&expected, false), text);
        }
    }
}

#[test]
fn tokens_become_the_same_text() {
    for mut set in sets() {
        if set.n_vocab > 100_000 {
            // Made with a vocabulary that names fewer control tokens.
            let special = set.vocabulary["special_tokens"].as_array_mut().unwrap();
            special.truncate(20);
        }
        let tekken = set.tekken("v7");
        for case in set.list("decode.json") {
            let ids = numbers(&case["ids"]);
            assert_eq!(tekken.decode(&ids, false), case["ignore"], "{ids:?}");
            assert_eq!(tekken.decode(&ids, true), case["keep"], "{ids:?}");
        }
    }
}

fn silence(seconds: f64) -> AudioClip {
    let samples = vec![0.0; (seconds * 16_000.0).round() as usize];
    AudioClip::new(&Audio::from_samples(samples, 16_000).unwrap()).unwrap()
}

/// Seconds of the recordings of a conversation, where they are not in the file.
fn seconds(name: &str) -> &[f64] {
    match name {
        "audio_only" | "audio_text" | "text_audio" => &[11.0],
        "two_audios_text" => &[3.0, 31.0],
        "two_texts" => &[1.0],
        "multi_turn" => &[5.0, 4.0],
        "multi_turn_trailing_space" => &[4.0],
        "consecutive_users" | "system_audio" => &[2.0],
        _ => &[6.0],
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn message(json: &Value, clips: &mut dyn Iterator<Item = AudioClip>) -> Message {
    let content = &json["content"];
    match json["role"].as_str().unwrap() {
        "system" => Message::system(text(content)),
        "user" => Message::User(match content.as_array() {
            None => vec![Part::Text(text(content))],
            Some(parts) => parts
                .iter()
                .map(|part| match part["type"] == "text" {
                    true => Part::Text(text(&part["text"])),
                    false => Part::Audio(clips.next().unwrap()),
                })
                .collect(),
        }),
        "assistant" => Message::Assistant {
            text: text(content),
            tool_calls: json["tool_calls"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|call| ToolCall {
                    id: text(&call["id"]),
                    name: text(&call["function"]["name"]),
                    arguments: text(&call["function"]["arguments"]),
                })
                .collect(),
            continues: json["prefix"] == true,
        },
        _ => Message::tool(text(&json["tool_call_id"]), text(content)),
    }
}

fn tools(json: &Value) -> Vec<Tool> {
    let tools = json.as_array().into_iter().flatten().map(|tool| {
        let function = &tool["function"];
        let parameters = function["parameters"].to_string();
        Tool::new(
            text(&function["name"]),
            text(&function["description"]),
            &parameters,
        )
        .unwrap()
    });
    tools.collect()
}

#[test]
fn conversations_become_the_same_prompts() {
    for set in sets() {
        let file = read(&set.folder.join(set.prompts));
        let vocabularies = ["v7", "v11", "v13"].map(|version| (version, set.tekken(version)));
        for case in file["prompts"].as_array().unwrap() {
            let Some(name) = case["name"].as_str() else {
                continue;
            };
            let version = case["version"].as_str().unwrap();
            let known = vocabularies.iter().find(|(known, _)| *known == version);
            let (_, tekken) = known.unwrap();
            let layout = PromptLayout::new(Path::new("tekken.json"), tekken).unwrap();
            let chat = &file["chats"][name];
            let lengths: Vec<f64> = match chat["seconds"].as_array() {
                Some(given) => given.iter().map(|s| s.as_f64().unwrap()).collect(),
                None => seconds(name).to_vec(),
            };
            let mut clips = lengths.iter().map(|&seconds| silence(seconds));
            let messages = chat["messages"].as_array().unwrap();
            let messages: Vec<Message> = messages
                .iter()
                .map(|json| message(json, &mut clips))
                .collect();
            let tools = tools(&chat["tools"]);
            let options = PromptOptions {
                tools: &tools,
                system_as_text: false,
            };
            let prompt = layout.chat(tekken, &messages, options);
            let expected = case.get("ids").or(case.get("ids_rle"));
            match (prompt, expected) {
                (Ok(parts), Some(expected)) => {
                    assert_eq!(set.ids(&parts), runs(expected), "{version} {name}");
                }
                (Err(error), None) => {
                    assert_eq!(error.code(), "invalid_value", "{version} {name}: {error}");
                }
                (other, _) => panic!("{version} {name}: {other:?}"),
            }
        }
    }
}

#[test]
fn recordings_become_the_same_prompts() {
    for set in sets() {
        let file = read(&set.folder.join(set.prompts));
        let tekken = set.tekken("v7");
        let layout = PromptLayout::new(Path::new("tekken.json"), &tekken).unwrap();
        for case in file["prompts"].as_array().unwrap() {
            let Some(seconds) = case["seconds"].as_f64() else {
                continue;
            };
            let clip = silence(seconds);
            let prompt = layout.transcription(&tekken, &clip, case["language"].as_str());
            let expected = case.get("ids").or(case.get("ids_rle")).unwrap();
            assert_eq!(set.ids(&prompt), runs(expected), "{case}");
        }
    }
}

#[test]
fn instructions_go_into_the_first_turn_where_they_are_wanted() {
    let set = sets().remove(0);
    let tekken = set.tekken("v7");
    let layout = PromptLayout::new(Path::new("tekken.json"), &tekken).unwrap();
    let user = Message::User(vec![Part::from("Listen."), silence(1.0).into()]);
    let with = [Message::system("Be brief."), user];
    let error = layout.chat(&tekken, &with, PromptOptions::default());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("system_as_text"), "{error}");
    let options = PromptOptions {
        system_as_text: true,
        ..PromptOptions::default()
    };
    let joined = Part::from("Be brief.\n\nListen.");
    let plain = [Message::User(vec![joined, silence(1.0).into()])];
    assert_eq!(
        layout.chat(&tekken, &with, options).unwrap(),
        layout
            .chat(&tekken, &plain, PromptOptions::default())
            .unwrap()
    );
    // What looks like a control token is text.
    let typed = layout
        .chat(&tekken, &[Message::user("[INST]</s>")], options)
        .unwrap();
    let ids = set.ids(&typed);
    assert_eq!(ids.iter().filter(|&&id| id < 40).count(), 3, "{ids:?}");
    assert!(Tool::new("a b", "", "{}").is_err());
    assert!(Tool::new("f", "", "[]").is_err());
}
