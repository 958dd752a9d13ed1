//! `/v1/realtime`: functions, answers that are asked for in so many words, and what clients change of a conversation.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use turaco::voice::EndpointOptions;

use crate::realtime::{Socket, speech};
use crate::support::{TestServer, wait_until};

/// What a chat endpoint was asked.
type Requests = Arc<Mutex<Vec<Value>>>;

/// A chat endpoint that gives these answers, one after the other, and then the last one for ever.
fn endpoint(answers: Vec<Value>) -> (String, Requests) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let requests = Requests::default();
    let seen = Arc::clone(&requests);
    std::thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim().is_empty() {
                    break;
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            seen.lock()
                .unwrap()
                .push(serde_json::from_slice(&body).unwrap());
            let delta = &answers[index.min(answers.len() - 1)];
            let event = json!({"choices": [{"delta": delta, "finish_reason": "stop"}]});
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n\
                 data: {event}\n\ndata: [DONE]\n\n"
            );
        }
    });
    (url, requests)
}

fn server(answers: Vec<Value>) -> (TestServer, Requests) {
    let (url, requests) = endpoint(answers);
    let server = TestServer::start(|config| config.llm = Some(EndpointOptions::new(url, "m")));
    (server, requests)
}

fn said(text: &str) -> Value {
    json!({"content": text})
}

fn update(socket: &mut Socket, mut session: Value) -> Value {
    session["type"] = "realtime".into();
    socket.say(json!({"type": "session.update", "session": session}));
    socket.until("session.updated").pop().unwrap()
}

/// A conversation in writing.
fn written(server: &TestServer, mut session: Value) -> Socket {
    let mut socket = Socket::open(server, "?intent=conversation");
    session["output_modalities"] = json!(["text"]);
    update(&mut socket, session);
    socket
}

fn create(socket: &mut Socket, item: Value) -> Value {
    socket.say(json!({"type": "conversation.item.create", "item": item}));
    socket.until("conversation.item.done").pop().unwrap()["item"].clone()
}

fn user(text: &str) -> Value {
    json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})
}

fn respond(socket: &mut Socket, response: Value) -> Vec<Value> {
    socket.say(json!({"type": "response.create", "response": response}));
    socket.until("response.done")
}

fn refused(socket: &mut Socket, event: Value) -> Value {
    socket.say(event);
    socket.until("error").pop().unwrap()["error"].clone()
}

fn find<'a>(events: &'a [Value], kind: &str) -> &'a Value {
    let found = events.iter().find(|event| event["type"] == kind);
    found.unwrap_or_else(|| panic!("no {kind}: {events:#?}"))
}

#[test]
fn functions_are_called_and_their_results_read() {
    let call = json!({"tool_calls": [{"index": 0, "id": "call_1", "function":
        {"name": "weather", "arguments": "{\"city\": \"Bern\"}"}}]});
    let (server, requests) = server(vec![call, said("It rains.")]);
    let tool = json!({"type": "function", "name": "weather", "description": "What it is like outside",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}});
    let mut socket = written(&server, json!({"tools": [tool], "tool_choice": "required"}));
    let updated = update(&mut socket, json!({}));
    assert_eq!(updated["session"]["tools"][0], tool);
    assert_eq!(updated["session"]["tool_choice"], "required");
    create(&mut socket, user("What is the weather in Bern?"));
    let events = respond(&mut socket, json!({}));
    let kinds: Vec<&str> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
    );
    assert_eq!(events[1]["item"]["arguments"], "");
    assert_eq!(events[3]["call_id"], "call_1");
    assert_eq!(events[4]["arguments"], "{\"city\": \"Bern\"}");
    assert_eq!(events[4]["name"], "weather");
    let done = &events[7]["response"];
    assert_eq!(done["status"], "completed");
    let item = &done["output"][0];
    assert_eq!(
        (&item["type"], &item["status"], &item["call_id"]),
        (
            &json!("function_call"),
            &json!("completed"),
            &json!("call_1")
        )
    );
    let strange = json!({"type": "function_call_output", "call_id": "other", "output": "x"});
    let event = json!({"type": "conversation.item.create", "item": strange});
    assert_eq!(refused(&mut socket, event)["code"], "invalid_tool_call_id");
    let output =
        json!({"type": "function_call_output", "call_id": "call_1", "output": "{\"rain\": true}"});
    assert_eq!(create(&mut socket, output)["output"], "{\"rain\": true}");
    let events = respond(&mut socket, json!({"tool_choice": "auto"}));
    assert_eq!(
        find(&events, "response.output_text.done")["text"],
        "It rains."
    );
    let requests = requests.lock().unwrap();
    assert_eq!(requests[0]["tools"][0]["function"]["name"], "weather");
    assert_eq!(requests[0]["tool_choice"], "required");
    assert!(requests[1].get("tool_choice").is_none());
    let messages = requests[1]["messages"].as_array().unwrap();
    let roles: Vec<&str> = messages
        .iter()
        .map(|message| message["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["user", "assistant", "tool"]);
    assert_eq!(messages[1]["tool_calls"][0]["id"], "call_1");
    assert_eq!(messages[2]["content"], "{\"rain\": true}");
}

#[test]
fn an_answer_is_what_was_asked_for() {
    let (server, requests) = server(vec![said("Yes.")]);
    let mut socket = written(&server, json!({"instructions": "Be brief."}));
    let first = create(&mut socket, user("one"));
    create(&mut socket, user("two"));
    let events = respond(
        &mut socket,
        json!({"conversation": "none", "metadata": {"topic": "test"}, "instructions": "Be loud.",
            "max_output_tokens": 7, "output_modalities": ["text"], "temperature": 0.5,
            "input": [{"type": "item_reference", "id": first["id"]}, user("three")]}),
    );
    let response = &events.last().unwrap()["response"];
    assert_eq!(response["metadata"], json!({"topic": "test"}));
    assert_eq!(response["conversation_id"], Value::Null);
    assert_eq!(response["max_output_tokens"], 7);
    assert_eq!(response["output"][0]["content"][0]["text"], "Yes.");
    assert!(
        events
            .iter()
            .all(|event| !event["type"].as_str().unwrap().starts_with("conversation.")),
        "{events:?}"
    );
    let events = respond(&mut socket, json!({}));
    let response = &events.last().unwrap()["response"];
    assert!(response["conversation_id"].is_string());
    {
        let requests = requests.lock().unwrap();
        let words = |index: usize| -> Vec<String> {
            let messages = requests[index]["messages"].as_array().unwrap();
            let words = messages.iter().map(|message| message["content"].as_str());
            words.map(|words| words.unwrap().to_owned()).collect()
        };
        assert_eq!(words(0), ["Be loud.", "one", "three"]);
        assert_eq!(words(1), ["Be brief.", "one", "two"]);
        assert_eq!(
            (&requests[0]["max_tokens"], &requests[0]["temperature"]),
            (&json!(7), &json!(0.5))
        );
    }
    for (response, param) in [
        (json!({"prompt": {"id": "x"}}), "response.prompt"),
        (json!({"conversation": "both"}), "response.conversation"),
        (
            json!({"output_modalities": ["smell"]}),
            "response.output_modalities",
        ),
        (
            json!({"input": [{"type": "item_reference", "id": "none"}]}),
            "response.input[0].id",
        ),
        (
            json!({"input": [{"type": "message", "role": "robot"}]}),
            "response.input[0].role",
        ),
        (
            json!({"tools": [{"type": "mcp"}]}),
            "response.tools[0].type",
        ),
    ] {
        let error = refused(
            &mut socket,
            json!({"type": "response.create", "response": response}),
        );
        assert_eq!(error["param"], param, "{error}");
    }
}

#[test]
fn items_are_put_in_and_taken_out_of_what_the_mind_reads() {
    let (server, requests) = server(vec![said("Yes.")]);
    let mut socket = written(&server, json!({}));
    let first = create(&mut socket, user("one"));
    let second = create(&mut socket, user("two"));
    let events = respond(&mut socket, json!({}));
    let answer = &events.last().unwrap()["response"]["output"][0];
    let place = |id: &Value, text: &str| json!({"type": "conversation.item.create", "previous_item_id": id, "item": user(text)});
    socket.say(place(&first["id"], "between"));
    let added = socket.until("conversation.item.added").pop().unwrap();
    assert_eq!(added["previous_item_id"], first["id"]);
    socket.say(place(&json!("root"), "zero"));
    let added = socket.until("conversation.item.added").pop().unwrap();
    assert_eq!(added["previous_item_id"], Value::Null);
    socket.until("conversation.item.done");
    let newest = json!({"type": "conversation.item.create", "item": user("three")});
    socket.say(newest);
    let added = socket.until("conversation.item.added").pop().unwrap();
    assert_eq!(added["previous_item_id"], answer["id"]);
    let three = json!({"type": "conversation.item.delete", "item_id": added["item"]["id"]});
    socket.say(three);
    socket.until("conversation.item.deleted");
    for id in [&second["id"], &answer["id"]] {
        socket.say(json!({"type": "conversation.item.delete", "item_id": id}));
        socket.until("conversation.item.deleted");
    }
    respond(&mut socket, json!({}));
    let words: Vec<String> = requests.lock().unwrap()[1]["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| message["content"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(words, ["zero", "one", "between"]);
    for event in [
        json!({"type": "conversation.item.delete", "item_id": second["id"]}),
        place(&second["id"], "x"),
    ] {
        assert_eq!(refused(&mut socket, event)["code"], "not_found");
    }
    let mut again = user("x");
    again["id"] = first["id"].clone();
    let error = refused(
        &mut socket,
        json!({"type": "conversation.item.create", "item": again}),
    );
    assert_eq!(error["param"], "item.id");
}

#[test]
fn sound_that_is_added_is_written_down_for_who_reads() {
    let (server, requests) = server(vec![said("Yes.")]);
    let input = json!({"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": null});
    let mut socket = written(&server, json!({"audio": {"input": input}}));
    let audio = json!({"type": "input_audio", "audio": STANDARD.encode(speech())});
    let item = json!({"type": "message", "role": "user", "content": [audio]});
    let item = create(&mut socket, item);
    socket.say(json!({"type": "response.create"}));
    let events = socket.until("response.done");
    let completed = find(
        &events,
        "conversation.item.input_audio_transcription.completed",
    );
    assert_eq!(completed["item_id"], item["id"]);
    let transcript = completed["transcript"].as_str().unwrap();
    assert!(transcript.contains("fellow Americans"), "{transcript}");
    assert_eq!(
        requests.lock().unwrap()[0]["messages"][0]["content"],
        transcript
    );
    socket.say(json!({"type": "conversation.item.retrieve", "item_id": item["id"]}));
    let kept = socket.until("conversation.item.retrieved").pop().unwrap();
    assert_eq!(kept["item"]["content"][0]["transcript"], transcript);
}

#[test]
fn modalities_change_at_any_time_and_the_voice_until_it_was_heard() {
    let (server, _) = server(vec![said("Of course, that is so.")]);
    let mut socket = written(&server, json!({}));
    create(&mut socket, user("Is it so?"));
    respond(&mut socket, json!({}));
    // A voice that was not there when the talking began.
    let voice = json!({"output": {"voice": "alloy", "format": {"type": "audio/pcmu"}}});
    update(
        &mut socket,
        json!({"output_modalities": ["audio"], "audio": voice}),
    );
    let events = respond(&mut socket, json!({"output_modalities": ["text"]}));
    find(&events, "response.output_text.done");
    let events = respond(&mut socket, json!({}));
    let sound = find(&events, "response.output_audio.delta");
    assert!(
        !STANDARD
            .decode(sound["delta"].as_str().unwrap())
            .unwrap()
            .is_empty()
    );
    let other = json!({"output": {"voice": "marin"}});
    let session =
        json!({"type": "session.update", "session": {"type": "realtime", "audio": other}});
    let asked = json!({"type": "response.create", "response": {"audio": other}});
    for event in [session, asked] {
        assert_eq!(refused(&mut socket, event)["code"], "cannot_update_voice");
    }
    let session = json!({"type": "realtime", "model": "another"});
    let event = json!({"type": "session.update", "session": session});
    assert_eq!(refused(&mut socket, event)["param"], "session.model");
    let events = respond(&mut socket, json!({"output_modalities": ["text"]}));
    find(&events, "response.output_text.done");
    // Every stage of every answer is in the metrics.
    let metrics = server.get("/metrics", &[]);
    for line in [
        "turaco_turns_total 4",
        "turaco_turn_seconds_count{stage=\"thinking\"} 4",
        "turaco_turn_seconds_count{stage=\"speaking\"} 1",
    ] {
        assert!(
            metrics.text().lines().any(|found| found == line),
            "{line}\n{}",
            metrics.text()
        );
    }
    drop(socket);
    wait_until("the session ends", || server.app.open_sessions() == 0);
}

#[test]
fn functions_are_offered_to_models_of_this_server_and_others_not_demanded() {
    let server = TestServer::start(|_| {});
    let mut socket = Socket::open(&server, "?model=voxtral-mini");
    let tool = json!({"type": "function", "name": "clock"});
    update(
        &mut socket,
        json!({"output_modalities": ["text"], "max_output_tokens": 500, "tools": [tool]}),
    );
    create(&mut socket, user("What time is it?"));
    let events = respond(&mut socket, json!({"max_output_tokens": 6}));
    let usage = &events.last().unwrap()["response"]["usage"];
    assert!(usage["output_tokens"].as_u64().unwrap() <= 6, "{usage}");
    // The functions are in the prompt.
    let with_tools = usage["input_tokens"].as_u64().unwrap();
    let aside = json!({"max_output_tokens": 6, "tools": [], "conversation": "none",
        "input": [user("What time is it?")]});
    let events = respond(&mut socket, aside);
    let usage = &events.last().unwrap()["response"]["usage"];
    assert!(
        usage["input_tokens"].as_u64().unwrap() < with_tools,
        "{usage}"
    );
    // Calls of former conversations, under ids of any kind.
    let call = json!({"type": "function_call", "call_id": "call_of_long_ago", "name": "clock", "arguments": "{}"});
    create(&mut socket, call);
    let output =
        json!({"type": "function_call_output", "call_id": "call_of_long_ago", "output": "noon"});
    create(&mut socket, output);
    let events = respond(&mut socket, json!({"max_output_tokens": 6}));
    assert_ne!(events.last().unwrap()["response"]["status"], "failed");
    let choice = json!({"type": "function", "name": "calendar"});
    let demand = json!({"type": "response.create", "response": {"tool_choice": choice}});
    assert_eq!(
        refused(&mut socket, demand)["param"],
        "response.tool_choice"
    );
}

#[test]
fn questions_are_heard_together_with_all_other_streams() {
    let (server, requests) = server(vec![said("Yes.")]);
    let input = json!({"format": {"type": "audio/pcm", "rate": 16000}, "turn_detection": null,
        "transcription": {"model": "voxtral-realtime"}});
    let mut sockets: Vec<Socket> = (0..3)
        .map(|_| written(&server, json!({"audio": {"input": input}})))
        .collect();
    for piece in speech()[..192_000].chunks(32_000) {
        for socket in &mut sockets {
            socket.append(piece);
        }
    }
    wait_until("all are heard by one", || {
        server.app.engine().live_sessions() == 3
    });
    for socket in &mut sockets {
        socket.say(json!({"type": "input_audio_buffer.commit"}));
        socket.say(json!({"type": "response.create"}));
    }
    for socket in &mut sockets {
        let events = socket.until("response.done");
        let of = |kind: &str, field: &str| -> String {
            let kind = format!("conversation.item.input_audio_transcription.{kind}");
            let found = events.iter().filter(|event| event["type"] == kind);
            found.map(|event| event[field].as_str().unwrap()).collect()
        };
        let transcript = of("completed", "transcript");
        assert!(!transcript.is_empty());
        assert_eq!(of("delta", "delta").trim(), transcript);
        let requests = requests.lock().unwrap();
        assert_eq!(requests[0]["messages"][0]["content"], transcript);
    }
    drop(sockets);
    wait_until("nobody is heard", || {
        server.app.engine().live_sessions() == 0
    });
}
