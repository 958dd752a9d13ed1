//! `/v1/chat/completions`, with a small model of random weights: what it says is nonsense, but always the same.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{TestServer, testdata};

const PATH: &str = "/v1/chat/completions";

fn question(more: Value) -> Value {
    let sound = std::fs::read(testdata("audio/test_speech.wav")).unwrap();
    let mut body = json!({
        "model": "voxtral-mini",
        "messages": [{"role": "user", "content": [
            {"type": "input_audio", "input_audio": {"data": STANDARD.encode(sound), "format": "wav"}},
            {"type": "text", "text": "What is said?"},
        ]}],
        "temperature": 0,
        "max_tokens": 12,
    });
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn an_answer_is_the_same_streamed_or_not() {
    let server = TestServer::start(|_| {});
    let whole = server.json(PATH, &question(json!({}))).json();
    assert_eq!(whole["object"], "chat.completion");
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["message"]["role"], "assistant");
    let usage = &whole["usage"];
    assert_eq!(usage["completion_tokens"], 12);
    assert!(usage["prompt_tokens"].as_u64().unwrap() > 100, "{usage}");
    let more = json!({"stream": true, "stream_options": {"include_usage": true}});
    let answer = server.json(PATH, &question(more));
    assert!(answer.head.contains("text/event-stream"));
    let text = answer.text().strip_suffix("data: [DONE]\n\n").unwrap();
    let events: Vec<Value> = text
        .split_terminator("\n\n")
        .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
        .collect();
    let content: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(content, choice["message"]["content"].as_str().unwrap());
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events.last().unwrap()["usage"], *usage);
}

#[test]
fn what_cannot_be_answered_is_said() {
    let server = TestServer::start(|_| {});
    let ask = |more: Value| server.json(PATH, &question(more));
    ask(json!({"model": "tiny.en"})).fails(400, "unsupported_model_task");
    ask(json!({"model": "nothing"})).fails(404, "model_not_found");
    ask(json!({"messages": []})).fails(400, "missing_required_parameter");
    ask(json!({"messages": [{"role": "robot", "content": "x"}]})).fails(400, "invalid_value");
    ask(json!({"n": 2})).fails(400, "unsupported_value");
    ask(json!({"temperature": -1})).fails(400, "invalid_value");
    ask(json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}))
        .fails(400, "invalid_value");
    let part = json!({"type": "input_audio", "input_audio": {"data": "aGVsbG8gaGVsbG8=", "format": "wav"}});
    ask(json!({"messages": [{"role": "user", "content": [part]}]}))
        .fails(400, "audio_decode_failed");
}
