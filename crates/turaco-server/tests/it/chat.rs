//! `/v1/chat/completions`, with a small model of random weights: what it says is nonsense, but always the same.

use std::io::{Read, Write};
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{TestServer, request, testdata, wait_until};

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
    let again = &events.last().unwrap()["usage"];
    assert_eq!(again["completion_tokens"], usage["completion_tokens"]);
    // What was heard and read is not heard and read again.
    let known = |usage: &Value| {
        let known = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
        known.unwrap()
    };
    assert_eq!(known(usage), 0);
    assert_eq!(known(again) + 1, usage["prompt_tokens"].as_u64().unwrap());
}

#[test]
fn answers_side_by_side_are_what_each_is_alone_and_a_client_that_goes_is_gone() {
    let server = TestServer::start(|_| {});
    let asked = |index: usize| {
        let content = format!("Question number {index}");
        json!({"model": "voxtral-mini", "temperature": 0, "max_tokens": 20,
            "messages": [{"role": "user", "content": content}]})
    };
    let answer = |index: usize| {
        let body = server.json(PATH, &asked(index)).json();
        body["choices"][0]["message"]["content"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let alone: Vec<String> = (0..8).map(answer).collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|index| scope.spawn(move || answer(index)))
            .collect();
        let said = threads.into_iter().map(|thread| thread.join().unwrap());
        said.collect()
    });
    assert_eq!(together, alone);
    let mut long = asked(9);
    long["max_tokens"] = 3000.into();
    long["stream"] = true.into();
    let body = long.to_string();
    let kind = [("Content-Type", "application/json")];
    let mut stream = TcpStream::connect(server.address).unwrap();
    let sent = request("POST", PATH, &kind, body.as_bytes());
    stream.write_all(&sent).unwrap();
    stream.read_exact(&mut [0; 200]).unwrap();
    let queues = server.app.engine().queues();
    let running = || {
        queues
            .iter()
            .map(|(_, queue)| queue.running())
            .sum::<usize>()
    };
    assert_eq!(running(), 1);
    drop(stream);
    wait_until("the place is free", || running() == 0);
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
    for (wrong, param, message) in [
        (
            json!({"temperature": [1]}),
            "temperature",
            "`temperature` must be a number, not a list",
        ),
        (
            json!({"stream": "yes"}),
            "stream",
            "`stream` must be true or false, not the text \"yes\"",
        ),
        (
            json!({"max_tokens": -3}),
            "max_tokens",
            "`max_tokens` must be a whole number of 0 or more, not -3",
        ),
        (
            json!({"stop": 3}),
            "stop",
            "`stop` must be a text or a list of texts",
        ),
        (
            json!({"messages": "hello"}),
            "messages",
            "`messages` must be a list, not the text \"hello\"",
        ),
        (
            json!({"messages": [{"role": 1, "content": "x"}]}),
            "messages[0].role",
            "`messages[0].role` must be a text, not 1",
        ),
    ] {
        let refused = ask(wrong);
        refused.fails(400, "invalid_value");
        let error = &refused.json()["error"];
        assert_eq!(
            (error["param"].as_str(), error["message"].as_str()),
            (Some(param), Some(message))
        );
    }
    ask(json!({"messages": [{"content": "x"}]})).fails(400, "missing_required_parameter");
    for (field, value) in [
        ("modalities", json!(["text", "audio"])),
        ("audio", json!({"voice": "alloy", "format": "wav"})),
        ("presence_penalty", json!(0.5)),
        ("logit_bias", json!({"5": 1})),
        ("functions", json!([{"name": "clock"}])),
    ] {
        let refused = ask(json!({ (field): value }));
        refused.fails(400, "unsupported_value");
        assert_eq!(refused.json()["error"]["param"], field);
    }
    let picture = json!({"type": "image_url", "image_url": {"url": "x"}});
    let refused = ask(json!({"messages": [{"role": "user", "content": [picture]}]}));
    refused.fails(400, "unsupported_value");
    assert_eq!(
        refused.json()["error"]["param"],
        "messages[0].content[0].type"
    );
    let list = server.raw(&request(
        "POST",
        PATH,
        &[("Content-Type", "Application/JSON")],
        b"[]",
    ));
    list.fails(400, "invalid_value");
    ask(json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}))
        .fails(400, "invalid_value");
    let tool = json!({"type": "function", "function": {"name": "clock"}});
    for choice in [
        json!("required"),
        json!({"type": "function", "function": {"name": "clock"}}),
    ] {
        // Random weights write no call where one is demanded; a function that is not offered cannot be.
        ask(json!({"tools": [tool], "tool_choice": choice})).fails(400, "invalid_value");
        let refused = ask(json!({"tool_choice": choice}));
        refused.fails(400, "invalid_value");
        assert_eq!(refused.json()["error"]["param"], "tool_choice");
    }
    ask(json!({"tool_choice": "perhaps"})).fails(400, "invalid_value");
    let part = json!({"type": "input_audio", "input_audio": {"data": "aGVsbG8gaGVsbG8=", "format": "wav"}});
    ask(json!({"messages": [{"role": "user", "content": [part]}]}))
        .fails(400, "audio_decode_failed");
}
