//! Conversations with a tiny model: what a session keeps changes nothing but the work.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use turaco::asr::Info;
use turaco::chat::{
    AudioClip, ChatModel, ChatOptions, ChatSession, Delta, FinishReason, Message, Part, Summary,
    Tool, ToolChoice,
};
use turaco::{
    Audio, ComputeType, Control, Error, LoadOptions, Recognizer, Segment, Task, TranscribeOptions,
};

use crate::support::testdata;

fn model() -> &'static Arc<ChatModel> {
    static MODEL: OnceLock<Arc<ChatModel>> = OnceLock::new();
    MODEL.get_or_init(|| load(&testdata("voxtral-mini/mistral"), ComputeType::F32))
}

fn load(path: &Path, compute_type: ComputeType) -> Arc<ChatModel> {
    let options = LoadOptions::new().compute_type(compute_type).device("cpu");
    ChatModel::load_path(path, &options, &Control::new()).unwrap()
}

fn speech() -> AudioClip {
    AudioClip::new(&Audio::open(testdata("audio/jfk.wav")).unwrap()).unwrap()
}

fn greedy(max_tokens: usize) -> ChatOptions {
    ChatOptions::new().temperature(0.0).max_tokens(max_tokens)
}

fn say(
    session: &mut ChatSession,
    messages: &[Message],
    options: &ChatOptions,
) -> (String, Summary) {
    let mut all = String::new();
    let mut summary = None;
    for delta in session
        .generate(messages, options, &Control::new())
        .unwrap()
    {
        assert!(summary.is_none());
        match delta.unwrap() {
            Delta::Text { text } => {
                assert!(!text.is_empty());
                all.push_str(&text);
            }
            Delta::End(end) => summary = Some(end),
            other => panic!("{other:?}"),
        }
    }
    (all, summary.unwrap())
}

#[test]
fn answers_are_the_references() {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(testdata("voxtral-mini/golden.json")).unwrap())
            .unwrap();
    let audio = [
        Part::from(speech()),
        Part::from("What can you tell me about this audio?"),
    ];
    let text = [Part::from("Hello, how are you doing today?")];
    for (case, parts) in [("chat_audio_text", &audio[..]), ("chat_text_only", &text)] {
        let facts = &golden["cases"][case];
        let ids = facts["greedy"].as_array().unwrap();
        let ids: Vec<u32> = ids.iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let end = ids.iter().position(|&id| id == 2);
        let shown = &ids[..end.unwrap_or(ids.len())];
        // Calls of functions are shown at the end; none of these cases has one.
        assert!(!shown.contains(&9));
        let messages = [Message::User(parts.to_vec())];
        let (said, summary) = say(&mut model().session(), &messages, &greedy(ids.len()));
        assert_eq!(said, model().tokenizer().decode(shown, false), "{case}");
        assert_eq!(summary.usage.prompt_tokens as u64, facts["n_prompt"]);
        assert_eq!(summary.usage.cached_tokens, 0);
        let (reason, n_tokens) = match end {
            Some(at) => (FinishReason::Stop, at + 1),
            None => (FinishReason::Length, ids.len()),
        };
        assert_eq!(summary.reason, reason);
        assert_eq!(summary.usage.completion_tokens, n_tokens);
    }
}

#[test]
fn a_conversation_goes_on_where_it_was() {
    let options = greedy(12);
    let mut messages = vec![Message::User(vec![
        speech().into(),
        Part::from("What is said?"),
    ])];
    let mut session = model().session();
    let (first, summary) = say(&mut session, &messages, &options);
    assert_eq!(summary.timings.chunks, 2);
    let before = summary.usage.prompt_tokens;
    assert!(session.cached_tokens() >= before);

    // The same sound once more in the messages, as a client without memory sends it.
    messages = vec![
        Message::User(vec![speech().into(), Part::from("What is said?")]),
        Message::assistant(format!("{first}.")),
        Message::user("Why?"),
    ];
    let (second, summary) = say(&mut session, &messages, &options);
    assert!(summary.usage.cached_tokens >= before - 1, "{summary:?}");
    assert_eq!(summary.timings.chunks, 0, "no sound is encoded twice");
    let (fresh, whole) = say(&mut model().session(), &messages, &options);
    assert_eq!(second, fresh);
    assert_eq!(whole.usage.prompt_tokens, summary.usage.prompt_tokens);

    // Asked again, the answer is the same, and nothing but the last token of the prompt is computed.
    let (again, summary) = say(&mut session, &messages, &options);
    assert_eq!(again, second);
    assert_eq!(summary.usage.cached_tokens, summary.usage.prompt_tokens - 1);

    // Another conversation in the same session: what it shares with the last one is kept, here its beginning.
    let other = [Message::user("Something else")];
    let (said, _) = say(&mut session, &other, &options);
    assert_eq!(said, say(&mut model().session(), &other, &options).0);
    session.clear();
    assert_eq!(session.cached_tokens(), 0);
    assert_eq!(said, say(&mut session, &other, &options).0);
}

#[test]
fn new_sound_behind_known_sound_is_heard() {
    let options = greedy(8);
    let noise: Vec<f32> = (0..40_000).map(|i| (i as f32 * 0.37).sin() * 0.3).collect();
    let noise = AudioClip::new(&Audio::from_samples(noise, 8_000).unwrap()).unwrap();
    assert!((noise.duration() - 5.0).abs() < 1e-6);
    let messages = |parts: Vec<Part>| [Message::User(parts)];
    let mut session = model().session();
    say(
        &mut session,
        &messages(vec![speech().into(), Part::from("One?")]),
        &options,
    );
    let both = messages(vec![speech().into(), noise.into(), Part::from("Two?")]);
    let (said, summary) = say(&mut session, &both, &options);
    assert_eq!(summary.timings.chunks, 1);
    assert_eq!(said, say(&mut model().session(), &both, &options).0);
    // Nothing at all and one sample are a chunk of silence.
    for samples in [vec![], vec![0.1]] {
        let clip = AudioClip::new(&Audio::from_samples(samples, 16_000).unwrap()).unwrap();
        let (_, summary) = say(&mut session, &messages(vec![clip.into()]), &options);
        assert_eq!(summary.usage.prompt_tokens, 4 + 100);
    }
}

#[test]
fn a_turn_can_be_stopped_anywhere() {
    let options = greedy(20);
    let messages = [Message::User(vec![speech().into(), Part::from("Hm?")])];
    let (whole, _) = say(&mut model().session(), &messages, &options);
    let mut session = model().session();
    // Dropped before it began, and after the first text.
    drop(
        session
            .generate(&messages, &options, &Control::new())
            .unwrap(),
    );
    assert_eq!(session.cached_tokens(), 0);
    let mut begun = session
        .generate(&messages, &options, &Control::new())
        .unwrap();
    begun.next().unwrap().unwrap();
    drop(begun);
    assert_eq!(say(&mut session, &messages, &options).0, whole);
    // Cancelled while it runs.
    let control = Control::new();
    let mut session = model().session();
    let mut turn = session.generate(&messages, &options, &control).unwrap();
    turn.next().unwrap().unwrap();
    control.cancel();
    let rest: Vec<_> = turn.collect();
    assert!(matches!(rest[..], [Err(Error::Cancelled)]), "{rest:?}");
    assert_eq!(say(&mut session, &messages, &options).0, whole);
    // A word at which the text ends.
    let word: String = whole.chars().skip(3).take(2).collect();
    let (short, summary) = say(
        &mut session,
        &messages,
        &greedy(20).stop(vec![word.clone()]),
    );
    assert_eq!(short, whole[..whole.find(&word).unwrap()]);
    assert_eq!(summary.reason, FinishReason::Stop);
}

#[test]
fn seeds_decide_what_is_drawn() {
    let messages = [Message::user("Hello")];
    let draw = |seed| {
        let options = ChatOptions::new()
            .temperature(1.5)
            .top_p(1.0)
            .seed(seed)
            .max_tokens(16);
        say(&mut model().session(), &messages, &options).0
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn a_call_that_is_demanded_is_a_call_or_an_error() {
    let tool = |name| Tool::new(name, "", "{}").unwrap();
    let mut options = greedy(12);
    options.tools = vec![tool("weather"), tool("clock")];
    let asked = [Message::user("Is it noon?")];
    let mut session = model().session();
    for choice in [ToolChoice::Required, ToolChoice::Named("clock".into())] {
        options.tool_choice = choice;
        let control = Control::new();
        let mut generation = session.generate(&asked, &options, &control).unwrap();
        // Random weights write anything but a call.
        let error = generation.next().unwrap().unwrap_err();
        assert!(
            matches!(
                error,
                Error::InvalidOption {
                    option: "tool_choice",
                    ..
                }
            ),
            "{error}"
        );
        assert!(generation.next().is_none());
        let demanded = generation.usage().prompt_tokens;
        drop(generation);
        options.tool_choice = ToolChoice::Auto;
        let auto = session.generate(&asked, &options, &control).unwrap();
        // The call has begun.
        assert!(demanded > auto.usage().prompt_tokens + 1);
    }
    options.tool_choice = ToolChoice::None;
    let (_, without) = say(&mut session, &asked, &options);
    options.tools.clear();
    let (_, none) = say(&mut session, &asked, &options);
    assert_eq!(without.usage.prompt_tokens, none.usage.prompt_tokens);
    for choice in [ToolChoice::Required, ToolChoice::Named("clock".into())] {
        options.tool_choice = choice;
        let refused = session.generate(&asked, &options, &Control::new());
        assert!(refused.is_err());
    }
}

#[test]
fn what_cannot_be_is_an_error() {
    let mut session = model().session();
    let mut refused = |messages: &[Message], options: &ChatOptions| {
        let generation = session.generate(messages, options, &Control::new());
        generation.map(drop).unwrap_err().to_string()
    };
    let hello = [Message::user("Hello")];
    assert!(refused(&[], &greedy(1)).contains("messages"));
    assert!(refused(&hello, &greedy(0)).contains("max_tokens"));
    assert!(refused(&hello, &ChatOptions::new().temperature(-1.0)).contains("temperature"));
    assert!(refused(&hello, &ChatOptions::new().top_p(1.5)).contains("top_p"));
    let system = [Message::system("x"), Message::User(vec![speech().into()])];
    assert!(refused(&system, &greedy(1)).contains("system"));
    let long = [Message::user("word ".repeat(5000))];
    assert!(refused(&long, &greedy(1)).contains("4096"));
}

/// A packed folder says what the same type made at load says, and every type runs.
#[test]
fn types_of_weights_agree() {
    use turaco::models::voxtral_mini::{VoxtralMiniCheckpoint, convert, random};
    use turaco::weights::new_folder::NewFolder;
    use turaco::weights::{DType, WeightType};
    let folder = tempfile::tempdir().unwrap();
    let control = Control::new();
    let plain = folder.path().join("plain");
    std::fs::create_dir(&plain).unwrap();
    random::write_random(&random::tiny(), &plain, 3, &control).unwrap();
    let messages = [Message::User(vec![speech().into(), Part::from("What?")])];
    let said = |path: &Path, compute_type| {
        let model = load(path, compute_type);
        say(&mut model.session(), &messages, &greedy(6))
    };
    for (weight_type, compute_type) in [
        (WeightType::F32, ComputeType::F32),
        (WeightType::Bf16, ComputeType::Bf16),
        (WeightType::F16, ComputeType::F16),
        (WeightType::Q8, ComputeType::Q8),
        (WeightType::Q4, ComputeType::Q4),
    ] {
        let packed = folder.path().join(weight_type.name());
        let checkpoint = VoxtralMiniCheckpoint::open(&plain).unwrap();
        let target = NewFolder::create(&packed).unwrap();
        let dtype = DType::Panels(weight_type);
        convert::write_hugging_face(&checkpoint, target, dtype, &control).unwrap();
        let (text, summary) = said(&packed, ComputeType::Auto);
        assert_eq!((text, summary.usage), {
            let (text, summary) = said(&plain, compute_type);
            (text, summary.usage)
        });
        // Six chunks of 2 s.
        assert_eq!(summary.timings.chunks, 6);
    }
}

fn transcribe(audio: &Audio, options: &TranscribeOptions) -> (Vec<Segment>, Info) {
    let recognizer = Recognizer::Chat(Arc::clone(model()));
    let mut running = recognizer
        .transcribe(audio, options, &Control::new())
        .unwrap();
    let segments = running.by_ref().map(Result::unwrap).collect();
    (segments, running.info().clone())
}

fn options(max_new_tokens: usize) -> TranscribeOptions {
    let mut options = TranscribeOptions::default();
    options.max_new_tokens = Some(max_new_tokens);
    options
}

#[test]
fn recordings_are_written_down_as_the_reference_does() {
    let golden: Value =
        serde_json::from_slice(&std::fs::read(testdata("voxtral-mini/golden.json")).unwrap())
            .unwrap();
    let ids = golden["cases"]["transcribe_en"]["greedy"]
        .as_array()
        .unwrap();
    let ids: Vec<u32> = ids.iter().map(|id| id.as_u64().unwrap() as u32).collect();
    let shown = ids.split(|&id| id == 2).next().unwrap();
    let audio = Audio::open(testdata("audio/jfk.wav")).unwrap();
    let mut english = options(ids.len());
    english.language = Some("English".into());
    let (segments, info) = transcribe(&audio, &english);
    assert_eq!(segments.len(), 1);
    assert_eq!(segments[0].tokens, shown);
    let text = model().tokenizer().decode(shown, false);
    assert_eq!(segments[0].text, format!(" {}", text.trim()));
    // The text is told while it is written.
    let recognizer = Recognizer::Chat(Arc::clone(model()));
    let mut running = recognizer
        .transcribe(&audio, &english, &Control::new())
        .unwrap();
    let mut pieces = Vec::new();
    let mut note = |text: &str| {
        pieces.push(text.to_owned());
        Ok(())
    };
    let told = running.next_with(&mut note).unwrap().unwrap();
    assert!(running.next_with(&mut note).is_none());
    assert!(pieces.len() > 3, "{pieces:?}");
    // But for a character that the last token leaves open.
    assert_eq!(pieces.concat(), told.text.trim_end_matches('\u{fffd}'));
    assert_eq!((segments[0].start, segments[0].end), (0.0, 11.0));
    assert_eq!(
        (info.language.as_str(), info.language_probability),
        ("en", 1.0)
    );
    assert!(info.warnings.is_empty());
}

#[test]
fn long_recordings_are_cut_in_silences() {
    let audio = Audio::open(testdata("audio/jfk.wav")).unwrap();
    let mut short = options(5);
    short.chunk_length = Some(5.0);
    let (segments, _) = transcribe(&audio, &short);
    assert!(segments.len() >= 3);
    for pair in segments.windows(2) {
        assert_eq!(pair[0].end, pair[1].start);
        assert_eq!(pair[0].id + 1, pair[1].id);
    }
    assert!(segments.iter().all(|s| s.end - s.start <= 5.0 + 1e-9));
    assert_eq!(
        (segments[0].start, segments.last().unwrap().end),
        (0.0, 11.0)
    );
    // Only speech.
    let silence = vec![0.0; 5 * 16_000];
    let samples = [&silence[..], audio.samples(), &silence].concat();
    let padded = Audio::from_samples(samples, 16_000).unwrap();
    let mut speech = options(5);
    speech.vad_filter = Some(true);
    let (segments, info) = transcribe(&padded, &speech);
    assert_eq!(segments.len(), 1);
    assert!((4.0..6.0).contains(&segments[0].start), "{segments:?}");
    assert!((15.0..17.0).contains(&segments[0].end));
    assert!(info.duration_after_vad < 13.0);
    // Nothing to hear is nothing to write down.
    for silent in [vec![], vec![0.0; 48_000]] {
        let silent = Audio::from_samples(silent, 16_000).unwrap();
        assert_eq!(transcribe(&silent, &options(5)).0, []);
    }
}

#[test]
fn what_the_model_cannot_do_is_said() {
    let recognizer = Recognizer::Chat(Arc::clone(model()));
    let audio = Audio::open(testdata("audio/jfk.wav")).unwrap();
    let refused = |options: &TranscribeOptions| {
        let running = recognizer.transcribe(&audio, options, &Control::new());
        running.map(drop).unwrap_err().to_string()
    };
    let mut translate = options(1);
    translate.task = Task::Translate;
    assert!(refused(&translate).contains("translate"));
    let mut long = options(1);
    long.chunk_length = Some(3000.0);
    assert!(refused(&long).contains("chunk_length"));
    let mut unknown = options(1);
    unknown.language = Some("klingon".into());
    assert!(refused(&unknown).contains("klingon"));
    let mut useless = options(1);
    useless.language = Some("ja".into());
    useless.word_timestamps = true;
    useless.hotwords = Some("x".into());
    let warnings = transcribe(&audio, &useless).1.warnings;
    assert_eq!(warnings.len(), 3, "{warnings:?}");
}

/// Conversations on threads of their own say what each says alone, and their steps are run together.
#[test]
fn conversations_side_by_side_say_what_each_says_alone() {
    let prompt = |index: usize| {
        let text = format!("Question number {index}{}", ", and more".repeat(index % 3));
        match index % 2 {
            0 => [Message::user(text)],
            _ => [Message::User(vec![
                speech().into(),
                Part::from(text.as_str()),
            ])],
        }
    };
    let options = |index: usize| greedy(10 + index);
    let alone: Vec<String> = (0..12)
        .map(|index| say(&mut model().session(), &prompt(index), &options(index)).0)
        .collect();
    let together: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12)
            .map(|index| {
                scope.spawn(move || say(&mut model().session(), &prompt(index), &options(index)).0)
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(together, alone);
    // One that stops reading holds nobody up.
    let mut idle = model().session();
    let mut turn = idle
        .generate(&prompt(0), &options(9), &Control::new())
        .unwrap();
    turn.next().unwrap().unwrap();
    assert_eq!(
        say(&mut model().session(), &prompt(1), &options(1)).0,
        alone[1]
    );
    drop(turn);
}

/// Turns of one device: who takes part in a step of others pays his share, and everybody says what he says alone.
#[test]
fn conversations_that_take_turns_share_steps() {
    use turaco::engine::{DeviceQueue, QueueLimits, Urgency};
    let queue = DeviceQueue::new(QueueLimits {
        running: 4,
        waiting: 64,
    });
    let prompt = |index: usize| [Message::user(format!("Question number {index}"))];
    let said = |index: usize, in_turns: bool| {
        let mut session = model().session();
        if in_turns {
            let urgency = [Urgency::Normal, Urgency::Talk][index % 2];
            session.take_turns(&queue, urgency);
        }
        say(&mut session, &prompt(index), &greedy(20)).0
    };
    let alone: Vec<String> = (0..8).map(|index| said(index, false)).collect();
    // One that takes no turns, but holds one, as a transcription does.
    let mut outsider = queue.enter(Urgency::Normal, &Control::new()).unwrap();
    let together: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|index| scope.spawn(move || said(index, true)))
            .collect();
        for (index, expected) in alone.iter().enumerate() {
            let _turn = outsider.turn(&Control::new()).unwrap();
            assert_eq!(said(index, false), *expected);
        }
        drop(outsider);
        let said = threads.into_iter().map(|thread| thread.join().unwrap());
        said.collect()
    });
    assert_eq!(together, alone);
    assert_eq!((queue.running(), queue.depth()), (0, 0));
    // A conversation that is given up is out of the way at its next step.
    let control = Control::new();
    let mut session = model().session();
    session.take_turns(&queue, Urgency::Normal);
    let mut turn = session
        .generate(&prompt(0), &greedy(1000), &control)
        .unwrap();
    turn.next().unwrap().unwrap();
    assert_eq!(queue.running(), 1);
    control.cancel();
    assert!(turn.any(|delta| matches!(delta, Err(Error::Cancelled))));
    drop(turn);
    assert_eq!(queue.running(), 0);
}

#[test]
fn what_was_said_to_one_client_is_not_read_again_for_another() {
    let path = testdata("voxtral-mini/mistral");
    let model = load(&path, ComputeType::F32);
    let ask = |messages: &[Message]| {
        let options = greedy(8);
        let mut session = model.session_for(messages, &options).unwrap();
        say(&mut session, messages, &options)
    };
    let question = Message::User(vec![speech().into(), Part::from("What is said?")]);
    let (answer, first) = ask(std::slice::from_ref(&question));
    assert_eq!(first.usage.cached_tokens, 0);
    let (again, second) = ask(std::slice::from_ref(&question));
    assert_eq!(again, answer);
    // All but the last row, and no sound is encoded again.
    assert_eq!(second.usage.cached_tokens, second.usage.prompt_tokens - 1);
    assert_eq!(second.timings.chunks, 0);
    let longer = [
        question.clone(),
        Message::assistant(&answer),
        Message::user("And then?"),
    ];
    let (said, third) = ask(&longer);
    assert!(third.usage.cached_tokens >= first.usage.prompt_tokens);
    let mut fresh = model.session();
    assert_eq!(say(&mut fresh, &longer, &greedy(8)).0, said);
    // Somebody else begins otherwise: nothing of it is known, and nothing is lost by it.
    let (_, other) = ask(&[Message::user("Something else altogether")]);
    assert!(other.usage.cached_tokens < 4, "{other:?}");
    assert!(ask(&longer).1.usage.cached_tokens > first.usage.prompt_tokens);
    // Not more are kept than may be.
    for index in 0..20 {
        ask(&[Message::user(format!("{index} is another question"))]);
    }
    assert!(ask(&longer).1.usage.cached_tokens < 4);
}
