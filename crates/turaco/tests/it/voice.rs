//! Conversations by voice: turns, answers, interruptions, and minds of several kinds.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use turaco::asr::Recognizer;
use turaco::chat::{Tool, ToolCall};
use turaco::voice::{
    AnswerEnd, AnswerOptions, AnswerRequest, Answered, Brief, ChatEndpoint, Detection,
    EndpointOptions, InputPart, LISTENING_RATE, Message, Mind, Place, Role, ToolChoice, VoiceEvent,
    VoiceModels, VoiceOptions, VoiceSession, Which,
};
use turaco::{Audio, ComputeType, Control, Error, LoadOptions, Result};

use crate::support::{real_model, testdata};
use crate::synthesizer::designed_voice;

/// Far more than any step takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Events, and word that there is another.
type Told = (Mutex<Vec<(Instant, VoiceEvent)>>, Condvar);

/// All that a session tells, in order.
#[derive(Clone, Default)]
struct Recorder(Arc<Told>);

impl Recorder {
    fn sink(&self) -> impl Fn(VoiceEvent) + Send + Sync + 'static {
        let recorder = self.clone();
        move |event| {
            let (events, news) = &*recorder.0;
            events.lock().unwrap().push((Instant::now(), event));
            news.notify_all();
        }
    }

    fn wait_for(&self, what: &str, wanted: impl Fn(&VoiceEvent) -> bool) -> (Instant, VoiceEvent) {
        let (events, news) = &*self.0;
        let deadline = Instant::now() + PATIENCE;
        let mut events = events.lock().unwrap();
        loop {
            if let Some(found) = events.iter().find(|(_, event)| wanted(event)) {
                return found.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} among {:?}", summary(&events));
            events = news.wait_timeout(events, left).unwrap().0;
        }
    }

    fn events(&self) -> Vec<VoiceEvent> {
        let events = self.0.0.lock().unwrap();
        events.iter().map(|(_, event)| event.clone()).collect()
    }
}

fn summary(events: &[(Instant, VoiceEvent)]) -> Vec<String> {
    let names = events.iter().map(|(_, event)| kind(event));
    names.collect()
}

fn kind(event: &VoiceEvent) -> String {
    serde_json::to_value(event).unwrap()["type"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Writes what it is told to, a word at a time.
struct Script {
    text: String,
    pause: Duration,
    hears: bool,
    /// What it was given, for the test to look at.
    contexts: Arc<Mutex<Vec<Vec<Message>>>>,
    options: Arc<Mutex<Vec<AnswerOptions>>>,
    /// What it calls, once.
    calls: Vec<ToolCall>,
}

impl Script {
    fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            pause: Duration::ZERO,
            hears: false,
            contexts: Arc::default(),
            options: Arc::default(),
            calls: Vec::new(),
        }
    }
}

impl Mind for Script {
    fn hears(&self) -> bool {
        self.hears
    }

    fn answer(
        &mut self,
        brief: Brief<'_>,
        control: &Control,
        say: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Answered> {
        self.contexts.lock().unwrap().push(brief.context.to_vec());
        self.options.lock().unwrap().push(brief.options.clone());
        for word in self.text.split_inclusive(' ') {
            control.check()?;
            std::thread::sleep(self.pause);
            say(word)?;
        }
        let calls = std::mem::take(&mut self.calls);
        Ok(Answered::default().tokens(3, 5).calls(calls))
    }
}

fn models(ear: bool, voice: bool) -> VoiceModels {
    let mut models = VoiceModels::new().unwrap();
    if ear {
        let options = LoadOptions::new()
            .compute_type(ComputeType::F32)
            .device("cpu");
        let recognizer = Recognizer::load_path(&real_model("tiny.en"), &options, &Control::new());
        models = models.recognizer(Arc::new(recognizer.unwrap()));
    }
    if voice {
        models = models.synthesizer(Arc::new(designed_voice()));
    }
    models
}

fn options() -> VoiceOptions {
    let mut options = VoiceOptions::default();
    // The speaker of the clip pauses for long.
    options.turns.silence_ms = 1500;
    options.recognition.beam_size = 1;
    options.speech.max_frames = Some(8);
    options
}

fn clip(seconds_of_silence: f64) -> Vec<f32> {
    let audio = Audio::open(testdata("audio/jfk.wav")).unwrap();
    let mut samples = audio.resampled(LISTENING_RATE).unwrap().into_samples();
    let silence = (seconds_of_silence * f64::from(LISTENING_RATE)) as usize;
    samples.resize(samples.len() + silence, 0.0);
    samples
}

/// Four seconds of speech, and silence that ends them.
fn a_few_words() -> Vec<f32> {
    let mut words = clip(0.0);
    words.truncate(4 * LISTENING_RATE as usize);
    words.resize(6 * LISTENING_RATE as usize, 0.0);
    words
}

fn push(session: &VoiceSession, samples: &[f32]) {
    for piece in samples.chunks(700) {
        assert!(session.push(piece));
    }
}

#[test]
fn a_question_is_heard_answered_and_said() {
    let recorder = Recorder::default();
    let mind = Script::new("Of course, **that** is a good question. I shall think about it!");
    let contexts = Arc::clone(&mind.contexts);
    let mut options = options();
    options.conversation.instructions = Some("Be brief.".into());
    let models = models(true, true);
    let session =
        VoiceSession::start(&models, Some(Box::new(mind)), options, recorder.sink()).unwrap();
    push(&session, &clip(2.0));
    recorder.wait_for("end of the answer", |event| {
        matches!(event, VoiceEvent::AnswerEnded { .. })
    });
    let conversation = session.conversation();
    session.finish();

    let events = recorder.events();
    let mut order: Vec<String> = events.iter().map(kind).collect();
    order.dedup();
    let place = |name: &str| {
        order
            .iter()
            .position(|kind| kind == name)
            .unwrap_or_else(|| panic!("no {name}: {order:?}"))
    };
    for pair in [
        ["speech_started", "speech_stopped"],
        ["speech_stopped", "committed"],
        ["committed", "heard"],
        ["heard", "answer_started"],
        ["answer_started", "answer_text"],
        ["answer_text", "answer_audio"],
        ["answer_audio", "answer_ended"],
    ] {
        assert!(place(pair[0]) < place(pair[1]), "{pair:?}: {order:?}");
    }
    let heard = events.iter().find_map(|event| match event {
        VoiceEvent::Heard { text, .. } => Some(text.clone()),
        _ => None,
    });
    assert!(
        heard
            .as_ref()
            .unwrap()
            .contains("ask what you can do for your country"),
        "{heard:?}"
    );
    let Some(VoiceEvent::AnswerEnded {
        end,
        text,
        tokens,
        timings,
        audio_ms,
        ..
    }) = events.last()
    else {
        panic!("{order:?}");
    };
    assert_eq!((*end, *tokens), (AnswerEnd::Completed, Some((3, 5))));
    assert!(text.ends_with("think about it!"));
    assert!(*audio_ms > 0 && timings.first_text.unwrap() <= timings.first_audio.unwrap());
    assert!(timings.transcript.is_some() && timings.turn_end.is_none_or(|seconds| seconds >= 0.0));
    let contexts = contexts.lock().unwrap();
    let told: Vec<_> = contexts[0].iter().map(|message| message.role).collect();
    assert_eq!(told, [Role::System, Role::User]);
    assert_eq!(contexts[0][1].text, heard.unwrap());
    let roles: Vec<_> = conversation
        .messages()
        .iter()
        .map(|message| message.role)
        .collect();
    assert_eq!(roles, [Role::User, Role::Assistant]);
}

#[test]
fn speech_ends_an_answer_at_once() {
    let recorder = Recorder::default();
    let mut mind = Script::new(&"word after word, and so on. ".repeat(200));
    mind.pause = Duration::from_millis(5);
    mind.hears = true;
    let mut options = options();
    options.speech.first_chunk = 1;
    let models = models(false, true);
    let session =
        VoiceSession::start(&models, Some(Box::new(mind)), options, recorder.sink()).unwrap();
    push(&session, &clip(2.0));
    recorder.wait_for("sound", |event| {
        matches!(event, VoiceEvent::AnswerAudio { .. })
    });
    push(&session, &clip(0.0)[..32_000]);
    let (started, _) = recorder.wait_for("second speech", |event| {
        matches!(event, VoiceEvent::SpeechStarted { utterance: 2, .. })
    });
    let (ended, event) = recorder.wait_for("end of the answer", |event| {
        matches!(event, VoiceEvent::AnswerEnded { answer: 1, .. })
    });
    let VoiceEvent::AnswerEnded { end, text, .. } = event else {
        unreachable!()
    };
    assert_eq!(end, AnswerEnd::Interrupted);
    assert!(ended >= started && ended - started < Duration::from_millis(80));
    assert!(text.len() < 200 * 28);
    let conversation = session.conversation();
    drop(session);
    let events = recorder.events();
    let at = events
        .iter()
        .position(|event| matches!(event, VoiceEvent::AnswerEnded { answer: 1, .. }))
        .unwrap();
    let late = events[at + 1..].iter().any(|event| {
        matches!(
            event,
            VoiceEvent::AnswerAudio { answer: 1, .. } | VoiceEvent::AnswerText { answer: 1, .. }
        )
    });
    assert!(!late, "nothing follows the end");
    // What nobody can have heard is not in the history.
    let answers = conversation
        .messages()
        .iter()
        .filter(|message| message.role == Role::Assistant);
    for answer in answers {
        assert!(answer.interrupted && answer.text == text);
    }
}

#[test]
fn an_answer_goes_on_after_what_is_no_interruption() {
    let text =
        "First of all, this is a long answer. Then there is more of it. And this is the end of it.";
    for hears in [false, true] {
        let recorder = Recorder::default();
        let mut mind = Script::new(text);
        mind.hears = hears;
        let contexts = Arc::clone(&mind.contexts);
        let mut options = options();
        // More than the clip has.
        options.turns.interrupt_words = 100;
        // Enough to be heard for a while.
        options.speech.max_frames = Some(40);
        let models = models(true, true);
        let session =
            VoiceSession::start(&models, Some(Box::new(mind)), options, recorder.sink()).unwrap();
        push(&session, &clip(2.0));
        recorder.wait_for("sound", |event| {
            matches!(event, VoiceEvent::AnswerAudio { .. })
        });
        push(&session, &a_few_words());
        recorder.wait_for("the verdict", |event| {
            matches!(event, VoiceEvent::Passed { utterance: 2 })
        });
        let goes_on = |event: &VoiceEvent| {
            matches!(
                event,
                VoiceEvent::AnswerStarted {
                    answer: 2,
                    goes_on: Some(1),
                    ..
                }
            )
        };
        recorder.wait_for("the rest", goes_on);
        recorder.wait_for("its end", ended(2));
        let said = |number: u64| -> String {
            let events = recorder.events();
            let texts = events.iter().filter_map(|event| match event {
                VoiceEvent::AnswerText { answer, text } if *answer == number => Some(text.as_str()),
                _ => None,
            });
            texts.collect()
        };
        assert!(text.ends_with(&said(2)), "{}", said(2));
        // Nobody was asked again, and it is one answer to one question.
        assert_eq!(contexts.lock().unwrap().len(), 1);
        let conversation = session.conversation();
        let messages = conversation.messages();
        let roles: Vec<Role> = messages.iter().map(|message| message.role).collect();
        assert_eq!(roles, [Role::User, Role::Assistant], "{messages:?}");
        assert_eq!(messages[1].text, text);

        // With words enough it is an interruption.
        session.configure(|options| options.turns.interrupt_words = 2);
        push(&session, &a_few_words());
        recorder.wait_for("another answer", |event| {
            matches!(
                event,
                VoiceEvent::AnswerStarted {
                    answer: 3,
                    goes_on: None,
                    ..
                }
            )
        });
        session.finish();
    }
}

#[test]
fn an_answer_goes_on_with_the_sound_that_was_stopped() {
    let text =
        "First of all, this is a long answer. Then there is more of it. And this is the end of it.";
    let recorder = Recorder::default();
    let mut options = options();
    // More than the clip has.
    options.turns.interrupt_words = 100;
    options.turns.resume = true;
    options.speech.max_frames = Some(40);
    let session = VoiceSession::start(
        &models(true, true),
        Some(Box::new(Script::new(text))),
        options,
        recorder.sink(),
    )
    .unwrap();
    push(&session, &clip(2.0));
    let said = |number: u64| -> Vec<f32> {
        let events = recorder.events().into_iter();
        let samples = events.filter_map(|event| match event {
            VoiceEvent::AnswerAudio { answer, samples } if answer == number => Some(samples),
            _ => None,
        });
        samples.flatten().collect()
    };
    // The first piece is there as a whole.
    let started = Instant::now();
    while said(1).len() < 90_000 {
        assert!(started.elapsed() < PATIENCE, "{}", said(1).len());
        std::thread::sleep(Duration::from_millis(5));
    }
    push(&session, &a_few_words());
    recorder.wait_for("the verdict", |event| {
        matches!(event, VoiceEvent::Passed { utterance: 2 })
    });
    recorder.wait_for("the rest", |event| {
        matches!(
            event,
            VoiceEvent::AnswerStarted {
                answer: 2,
                goes_on: Some(1),
                ..
            }
        )
    });
    recorder.wait_for("its end", ended(2));
    let (first, rest) = (said(1), said(2));
    let beginning = &rest[..2_400];
    let place = first.windows(2_400).position(|part| part == beginning);
    // Neither from the beginning of the answer nor from that of a piece.
    let place = place.unwrap_or_else(|| panic!("{} samples are said anew", rest.len()));
    assert!(place > 0 && place < 80_000, "{place}");
    session.finish();
}

#[test]
fn a_commit_is_heeded_whether_or_not_anything_was_said() {
    for detection in [Detection::Silero, Detection::None] {
        let recorder = Recorder::default();
        let mut options = options();
        options.turns.detection = detection;
        let session = VoiceSession::start(&models(false, false), None, options, recorder.sink());
        let session = session.unwrap();
        session.commit(false);
        push(&session, &clip(0.0)[..24_000]);
        session.commit(false);
        session.commit(false);
        session.finish();
        let events = recorder.events();
        let found: Vec<bool> = events
            .iter()
            .filter_map(|event| match event {
                VoiceEvent::CommitHeeded { found } => Some(*found),
                _ => None,
            })
            .collect();
        assert_eq!(found, [false, true, false], "{detection:?}");
    }
}

#[test]
fn the_caller_may_say_when_a_turn_is_over() {
    let recorder = Recorder::default();
    let mut mind = Script::new("Yes.");
    mind.hears = true;
    let contexts = Arc::clone(&mind.contexts);
    let mut options = options();
    options.turns.detection = Detection::None;
    let session = VoiceSession::start(
        &models(false, false),
        Some(Box::new(mind)),
        options,
        recorder.sink(),
    )
    .unwrap();
    let samples = clip(0.0);
    push(&session, &samples[..20_000]);
    session.clear();
    push(&session, &samples[20_000..50_000]);
    session.commit(false);
    session.add(Message::new(Role::User, "What was that?"));
    session.respond();
    recorder.wait_for("answer", |event| {
        matches!(event, VoiceEvent::AnswerEnded { .. })
    });
    session.finish();
    let contexts = contexts.lock().unwrap();
    let [sound, question] = &contexts[0][..] else {
        panic!("{contexts:?}")
    };
    assert!(sound.sound.as_deref() == Some(&samples[20_000..50_000]));
    assert_eq!(question.text, "What was that?");
}

#[test]
fn a_failing_mind_ends_its_answer_and_the_session_goes_on() {
    struct Failing;
    impl Mind for Failing {
        fn hears(&self) -> bool {
            true
        }
        fn answer(
            &mut self,
            _: Brief<'_>,
            _: &Control,
            say: &mut dyn FnMut(&str) -> Result<()>,
        ) -> Result<Answered> {
            say("I think")?;
            Err(Error::Network {
                url: "http://x".into(),
                message: "it is gone".into(),
            })
        }
    }
    let recorder = Recorder::default();
    let mut options = options();
    options.turns.detection = Detection::None;
    let session = VoiceSession::start(
        &models(false, true),
        Some(Box::new(Failing)),
        options,
        recorder.sink(),
    )
    .unwrap();
    for number in 1..=2 {
        assert!(session.push(&[0.1; 1600]));
        session.commit(true);
        recorder.wait_for("end", |event| {
            matches!(event, VoiceEvent::AnswerEnded { answer, end: AnswerEnd::Failed, .. } if *answer == number)
        });
    }
    session.finish();
    let told = recorder.events().iter().filter(|event| matches!(event, VoiceEvent::Failed { code: "llm_error", message } if message.contains("it is gone"))).count();
    assert_eq!(told, 2);
}

#[test]
fn too_much_waiting_sound_is_refused() {
    let mut options = options();
    options.max_buffer_s = Some(1.0);
    let slow = |_: VoiceEvent| std::thread::sleep(Duration::from_millis(300));
    let session = VoiceSession::start(&models(false, false), None, options, slow).unwrap();
    let taken = (0..100).filter(|_| session.push(&[0.5; 8000])).count();
    assert!(taken < 100, "{taken}");
    drop(session);
}

/// A chat endpoint that answers each request with `lines`, then says what it was sent.
fn endpoint(status: &str, lines: &[&str], hang: bool) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let requests: Arc<Mutex<Vec<String>>> = Arc::default();
    let (seen, status) = (Arc::clone(&requests), status.to_owned());
    let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n\n")).collect();
    std::thread::spawn(move || {
        for stream in listener.incoming().take(4) {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
                head.push_str(&line);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            seen.lock()
                .unwrap()
                .push(head + &String::from_utf8(body).unwrap());
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
            );
            for line in &lines {
                let _ = stream.write_all(line.as_bytes());
            }
            if hang {
                std::thread::sleep(PATIENCE);
            }
        }
    });
    (url, requests)
}

fn ask(url: &str, control: &Control) -> (Result<Answered>, String) {
    let options = EndpointOptions::new(url, "m").key(Some("secret".into()));
    let mut text = String::new();
    let mut mind = ChatEndpoint::new(options).unwrap();
    let context = [
        Message::new(Role::System, "Be brief."),
        Message::new(Role::User, "How?"),
    ];
    let usual = AnswerOptions::default();
    let answered = mind.answer(Brief::new(&context, &usual), control, &mut |delta| {
        text.push_str(delta);
        Ok(())
    });
    (answered, text)
}

#[test]
fn a_chat_endpoint_is_a_mind() {
    let lines = [
        r#"data: {"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
        ": a comment",
        r#"data: {"choices":[{"delta":{"content":"So é"}}]}"#,
        r#"data: {"choices":[{"delta":{"content":"s."},"finish_reason":"length"}]}"#,
        r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#,
        "data: [DONE]",
    ];
    let (url, requests) = endpoint("200 OK", &lines, false);
    let (answered, text) = ask(&url, &Control::new());
    let answered = answered.unwrap();
    assert_eq!(text, "So és.");
    assert_eq!(
        (
            answered.prompt_tokens,
            answered.completion_tokens,
            answered.cut
        ),
        (Some(7), Some(2), true)
    );
    let request = requests.lock().unwrap()[0].clone();
    let (head, body) = request.split_once('{').unwrap();
    assert!(head.starts_with("POST /v1/chat/completions"), "{head}");
    assert!(
        head.to_lowercase().contains("authorization: bearer secret"),
        "{head}"
    );
    let body: serde_json::Value = serde_json::from_str(&format!("{{{body}")).unwrap();
    assert_eq!(body["messages"][0]["role"], "system");
    assert_eq!(body["messages"][1]["content"], "How?");
    assert_eq!(
        (body["stream"].as_bool(), body["model"].as_str()),
        (Some(true), Some("m"))
    );
}

#[test]
fn a_chat_endpoint_that_fails_says_why_and_one_that_hangs_can_be_cancelled() {
    let (url, _) = endpoint(
        "401 Unauthorized",
        &[r#"{"error":{"message":"wrong key"}}"#],
        false,
    );
    let error = ask(&url, &Control::new()).0.unwrap_err().to_string();
    assert!(
        error.contains("401") && error.contains("wrong key"),
        "{error}"
    );
    let (url, _) = endpoint(
        "200 OK",
        &[r#"data: {"choices":[{"delta":{"content":"So"}}]}"#],
        false,
    );
    let error = ask(&url, &Control::new()).0.unwrap_err().to_string();
    assert!(error.contains("in the middle"), "{error}");
    assert!(ask("http://127.0.0.1:1", &Control::new()).0.is_err());

    let (url, _) = endpoint(
        "200 OK",
        &[r#"data: {"choices":[{"delta":{"content":"So"}}]}"#],
        true,
    );
    let control = Control::new();
    let stopper = control.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        stopper.cancel();
    });
    let started = Instant::now();
    let (answered, text) = ask(&url, &control);
    assert!(matches!(answered, Err(Error::Cancelled)));
    assert_eq!(text, "So");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn long_silence_is_told_once_and_costs_little() {
    for gate in [None, Some(Default::default())] {
        let recorder = Recorder::default();
        let mut options = options();
        options.turns.idle_timeout_ms = Some(2000);
        options.turns.energy_gate = gate;
        options.max_buffer_s = Some(1000.0);
        let session =
            VoiceSession::start(&models(false, false), None, options, recorder.sink()).unwrap();
        for _ in 0..300 {
            assert!(session.push(&[0.0; 16_000]));
        }
        session.finish();
        assert_eq!(recorder.events(), [VoiceEvent::Idle { at_ms: 2000 }]);
    }
}

#[test]
fn sessions_that_share_models_do_not_hear_each_other() {
    let models = models(true, true);
    let recorders: Vec<Recorder> = (0..4).map(|_| Recorder::default()).collect();
    let minds: Vec<Script> = (0..4).map(|_| Script::new("I see.")).collect();
    let contexts: Vec<_> = minds
        .iter()
        .map(|mind| Arc::clone(&mind.contexts))
        .collect();
    let sessions: Vec<VoiceSession> = minds
        .into_iter()
        .zip(&recorders)
        .map(|(mind, recorder)| {
            VoiceSession::start(&models, Some(Box::new(mind)), options(), recorder.sink()).unwrap()
        })
        .collect();
    let sound = clip(2.0);
    for piece in sound.chunks(4000) {
        for session in &sessions {
            assert!(session.push(piece));
        }
    }
    for session in sessions {
        session.finish();
    }
    for (recorder, contexts) in recorders.iter().zip(contexts) {
        let heard = recorder
            .events()
            .into_iter()
            .filter_map(|event| match event {
                VoiceEvent::Heard { text, .. } => Some(text),
                _ => None,
            });
        let heard: Vec<String> = heard.collect();
        assert_eq!(heard.len(), 1);
        assert!(heard[0].contains("fellow Americans"), "{heard:?}");
        let contexts = contexts.lock().unwrap();
        assert_eq!((contexts.len(), contexts[0].len()), (1, 1));
    }
}

#[test]
fn a_question_that_goes_on_before_its_answer_begins_is_answered_as_one() {
    let recorder = Recorder::default();
    let mind = Script::new("I see.");
    let contexts = Arc::clone(&mind.contexts);
    let mut options = options();
    options.turns.silence_ms = 300;
    let session = VoiceSession::start(
        &models(true, false),
        Some(Box::new(mind)),
        options,
        recorder.sink(),
    )
    .unwrap();
    // All of it at once: the pauses end turns, and speech goes on before anything was recognised.
    push(&session, &clip(2.0));
    let conversation = session.finish();
    let contexts = contexts.lock().unwrap();
    let last = contexts.last().unwrap();
    let said: Vec<&str> = last
        .iter()
        .filter(|message| message.role == Role::User)
        .map(|message| message.text.as_str())
        .collect();
    assert!(said.len() > 1, "{said:?}");
    assert!(said.concat().contains("country"), "{said:?}");
    // Questions that were overtaken have no answer, the last one has.
    let answers = conversation.summary().assistant_messages;
    assert!((1..said.len()).contains(&answers), "{answers} of {said:?}");
    let newest = conversation.messages().last().unwrap();
    assert_eq!(
        (newest.role, newest.text.as_str()),
        (Role::Assistant, "I see.")
    );
}

fn written(mind: Script, change: impl FnOnce(&mut VoiceOptions)) -> (VoiceSession, Recorder) {
    let recorder = Recorder::default();
    let mut options = options();
    options.turns.detection = Detection::None;
    change(&mut options);
    let models = models(false, false);
    let session =
        VoiceSession::start(&models, Some(Box::new(mind)), options, recorder.sink()).unwrap();
    (session, recorder)
}

fn clock() -> Tool {
    Tool::new("clock", "What time it is", r#"{"type": "object"}"#).unwrap()
}

fn call(id: &str) -> ToolCall {
    ToolCall {
        id: id.into(),
        name: "clock".into(),
        arguments: r#"{"zone": "UTC"}"#.into(),
    }
}

fn ended(number: u64) -> impl Fn(&VoiceEvent) -> bool {
    move |event| matches!(event, VoiceEvent::AnswerEnded { answer, .. } if *answer == number)
}

#[test]
fn functions_are_called_and_their_results_answered() {
    let mut mind = Script::new("Wait. ");
    mind.calls = vec![call("one")];
    let (contexts, asked) = (Arc::clone(&mind.contexts), Arc::clone(&mind.options));
    let (session, recorder) = written(mind, |options| options.answers.tools = vec![clock()]);
    session.add(Message::new(Role::User, "What time is it?").tagged("q"));
    session.respond();
    let (_, told) = recorder.wait_for("call", |event| {
        matches!(event, VoiceEvent::AnswerCall { .. })
    });
    let VoiceEvent::AnswerCall {
        answer: 1,
        call: told,
    } = told
    else {
        panic!("{told:?}")
    };
    assert_eq!(told, call("one"));
    recorder.wait_for("end", ended(1));
    session.add(Message::result("one", "noon"));
    session.respond();
    recorder.wait_for("end", ended(2));
    // What is taken out is not read again, and a result without its call means nothing.
    session.remove(Which::Call("one".into()));
    session.put(Message::new(Role::User, "Hello?"), Place::Start);
    session.respond();
    recorder.wait_for("end", ended(3));
    let contexts = contexts.lock().unwrap();
    let roles = |index: usize| -> Vec<Role> {
        contexts[index].iter().map(|message| message.role).collect()
    };
    assert_eq!(roles(0), [Role::User]);
    assert_eq!(roles(1), [Role::User, Role::Assistant, Role::Tool]);
    assert_eq!(contexts[1][1].calls, [call("one")]);
    let words: Vec<&str> = contexts[2].iter().map(|said| said.text.as_str()).collect();
    assert_eq!(words, ["Hello?", "What time is it?", "Wait. ", "Wait. "]);
    assert_eq!(asked.lock().unwrap()[0].tools, [clock()]);
}

#[test]
fn an_answer_may_be_asked_for_in_so_many_words() {
    let mind = Script::new("So it is.");
    let (contexts, asked) = (Arc::clone(&mind.contexts), Arc::clone(&mind.options));
    let (session, recorder) = written(mind, |options| {
        options.conversation.instructions = Some("Be brief.".into());
    });
    session.add(Message::new(Role::User, "a").tagged("a"));
    session.add(Message::new(Role::User, "b").tagged("b"));
    let mut request = AnswerRequest::default();
    request.instructions = Some("Be loud.".into());
    let mut answer = AnswerOptions::default();
    answer.max_tokens = Some(3);
    answer.tool_choice = ToolChoice::Required;
    request.options = Some(answer.clone());
    request.input = Some(vec![
        InputPart::Kept(Which::Tag("b".into())),
        InputPart::Message(Message::new(Role::User, "c")),
    ]);
    request.aside = true;
    let number = session.respond_as(request);
    let (_, started) = recorder.wait_for("start", |event| {
        matches!(event, VoiceEvent::AnswerStarted { .. })
    });
    assert!(
        matches!(started, VoiceEvent::AnswerStarted { request, .. } if request == Some(number)),
        "{started:?}"
    );
    recorder.wait_for("end", ended(1));
    session.respond();
    recorder.wait_for("end", ended(2));
    let contexts = contexts.lock().unwrap();
    let words = |index: usize| -> Vec<&str> {
        contexts[index]
            .iter()
            .map(|said| said.text.as_str())
            .collect()
    };
    assert_eq!(words(0), ["Be loud.", "b", "c"]);
    // The first answer was no part of the conversation.
    assert_eq!(words(1), ["Be brief.", "a", "b"]);
    assert_eq!(asked.lock().unwrap()[0], answer);
    assert_eq!(session.finish().summary().assistant_messages, 1);
}

#[test]
fn an_answer_that_is_interrupted_before_it_begins_is_told_to_who_asked() {
    let mut mind = Script::new(&"word ".repeat(1000));
    mind.pause = Duration::from_millis(5);
    let (session, recorder) = written(mind, |_| {});
    session.add(Message::new(Role::User, "a"));
    session.respond();
    recorder.wait_for("text", |event| {
        matches!(event, VoiceEvent::AnswerText { .. })
    });
    session.respond_as(AnswerRequest::default());
    std::thread::sleep(Duration::from_millis(100));
    assert!(session.cancel());
    let (_, event) = recorder.wait_for("end", ended(2));
    assert!(
        matches!(
            event,
            VoiceEvent::AnswerEnded {
                end: AnswerEnd::Cancelled,
                ..
            }
        ),
        "{event:?}"
    );
    session.finish();
}

#[test]
fn sound_that_is_added_is_written_down_for_minds_that_read() {
    let recorder = Recorder::default();
    let mind = Script::new("I see.");
    let contexts = Arc::clone(&mind.contexts);
    let models = models(true, false);
    let session =
        VoiceSession::start(&models, Some(Box::new(mind)), options(), recorder.sink()).unwrap();
    let sound: Arc<[f32]> = clip(0.0).into();
    let message = Message::new(Role::User, "").with_sound(Arc::clone(&sound));
    session.add(message.clone().tagged("spoken"));
    session.respond();
    let (_, read) = recorder.wait_for("text", |event| matches!(event, VoiceEvent::Read { .. }));
    let VoiceEvent::Read {
        tag, text, seconds, ..
    } = read
    else {
        panic!("{read:?}")
    };
    assert_eq!((tag.as_deref(), seconds), (Some("spoken"), 11.0));
    assert!(text.contains("fellow Americans"), "{text}");
    recorder.wait_for("end", ended(1));
    let mut request = AnswerRequest::default();
    request.input = Some(vec![InputPart::Message(message)]);
    session.respond_as(request);
    recorder.wait_for("end", ended(2));
    session.finish();
    for context in &*contexts.lock().unwrap() {
        assert!(context[0].text.contains("fellow Americans"), "{context:?}");
    }
}

#[test]
fn a_turn_that_is_committed_early_keeps_what_was_said() {
    let recorder = Recorder::default();
    let mut options = options();
    options.turns.min_speech_ms = 2000;
    let models = models(true, false);
    let session = VoiceSession::start(
        &models,
        Some(Box::new(Script::new("Yes."))),
        options,
        recorder.sink(),
    )
    .unwrap();
    push(&session, &clip(0.0)[..24_000]);
    session.commit(true);
    recorder.wait_for("end", ended(1));
    let events = recorder.events();
    let kinds: Vec<String> = events.iter().map(kind).collect();
    assert_eq!(
        kinds[..3],
        ["speech_started", "speech_stopped", "committed"],
        "{kinds:?}"
    );
    let timings = events.iter().find_map(|event| match event {
        VoiceEvent::AnswerEnded { timings, .. } => Some(*timings),
        _ => None,
    });
    let timings = timings.unwrap();
    assert!(timings.recognition > 0.0 && timings.first_text.is_some());
    session.finish();
}

#[test]
fn answers_with_and_without_sound_follow_each_other() {
    let recorder = Recorder::default();
    let mut options = options();
    options.answers.speak = false;
    let session = VoiceSession::start(
        &models(false, false),
        Some(Box::new(Script::new("So it is."))),
        options,
        recorder.sink(),
    )
    .unwrap();
    session.add(Message::new(Role::User, "a"));
    session.respond();
    recorder.wait_for("end", ended(1));
    // The voice comes later, and one answer wants none.
    session.set_synthesizer(&models(false, true));
    session.configure(|options| options.answers.speak = true);
    session.respond();
    recorder.wait_for("end", ended(2));
    let mut request = AnswerRequest::default();
    let mut quiet = AnswerOptions::default();
    quiet.speak = false;
    request.options = Some(quiet);
    session.respond_as(request);
    recorder.wait_for("end", ended(3));
    session.finish();
    let sounds: Vec<u64> = recorder
        .events()
        .iter()
        .filter_map(|event| match event {
            VoiceEvent::AnswerAudio { answer, .. } => Some(*answer),
            _ => None,
        })
        .collect();
    assert!(
        !sounds.is_empty() && sounds.iter().all(|answer| *answer == 2),
        "{sounds:?}"
    );
}

#[test]
fn a_chat_endpoint_is_offered_functions_and_calls_them() {
    let lines = [
        r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"call_1","function":{"name":"clock","arguments":""}}]}}]}"#,
        r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"zone\": "}}]}}]}"#,
        r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"\"UTC\"}"}},{"index":1,"function":{"name":"clock"}}]}}]}"#,
        r#"data: {"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
        "data: [DONE]",
    ];
    let (url, requests) = endpoint("200 OK", &lines, false);
    let mut mind = ChatEndpoint::new(EndpointOptions::new(url, "m")).unwrap();
    let mut options = AnswerOptions::default();
    options.tools = vec![clock()];
    options.tool_choice = ToolChoice::Named("clock".into());
    options.max_tokens = Some(9);
    let mut calls = Message::of_calls(vec![call("zero")]);
    calls.text = "Wait.".into();
    let context = [
        Message::new(Role::User, "When?"),
        calls,
        Message::result("zero", "noon"),
    ];
    let control = Control::new();
    let brief = Brief::new(&context, &options);
    let answered = mind.answer(brief, &control, &mut |_| Ok(())).unwrap();
    assert_eq!(answered.calls[0], call("call_1"));
    assert_eq!(answered.calls[1].arguments, "{}");
    assert!(!answered.calls[1].id.is_empty());
    let request = requests.lock().unwrap()[0].clone();
    let body = format!("{{{}", request.split_once('{').unwrap().1);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["tools"][0]["function"]["name"], "clock");
    assert_eq!(body["tool_choice"]["function"]["name"], "clock");
    assert_eq!(body["max_tokens"], 9);
    assert_eq!(body["messages"][1]["tool_calls"][0]["id"], "zero");
    assert_eq!(body["messages"][2]["tool_call_id"], "zero");
}

/// Nobody reads on when the answer is not wanted any more: the endpoint sees its connection end.
#[test]
fn a_cancelled_endpoint_is_left_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let waited = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let started = Instant::now();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes = [0; 4096];
        // The request, then the end of the connection; no answer at all.
        while !matches!(stream.read(&mut bytes), Ok(0) | Err(_)) {}
        started.elapsed()
    });
    let control = Control::new();
    let stopper = control.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        stopper.cancel();
    });
    assert!(matches!(ask(&url, &control).0, Err(Error::Cancelled)));
    assert!(waited.join().unwrap() < Duration::from_secs(10));
}
