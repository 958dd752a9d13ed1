//! `turaco voices`, and how an option becomes a voice.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use turaco::address::{self, Hosts};
use turaco::audio::{AudioSource, DecodeOptions};
use turaco::cache::MULTILINGUAL;
use turaco::models::qwen3_tts::{Qwen3TtsCheckpoint, TtsKind};
use turaco::text::normalize::normalize_basic;
use turaco::text::wer::character_errors;
use turaco::tts::{ClonedVoice, Voice, VoiceStore};
use turaco::{Audio, Error, LoadOptions, Recognizer, Synthesizer, TranscribeOptions};

use super::{Context, speech_model};
use crate::args::{VoiceArgs, VoicesArgs, VoicesCommand};
use crate::engine;
use crate::exit::{Exit, Failure, Outcome, Stop};
use crate::files;
use crate::inputs::Input;
use crate::printer::Level;
use crate::sound::Reading;

/// List, create or remove voices.
pub fn run(args: &VoicesArgs, context: &Context) -> Outcome {
    match &args.command {
        VoicesCommand::List { json } => list(*json, context),
        VoicesCommand::Create {
            name,
            ref_audio,
            ref_text,
            x_vector_only,
            force,
        } => {
            let store = VoiceStore::from_env()?;
            let path = match is_path(name) {
                true => name.into(),
                false => store.path_to_save(name)?,
            };
            // Pipes and devices hold nothing that could be lost.
            let replaces = *force || files::is_special(&path) && !path.is_dir();
            if path.exists() && !replaces {
                return Err(Failure::usage(format!("voice `{name}` is there already"))
                    .hint("--force replaces it")
                    .into());
            }
            // Whether it can be kept is known before minutes of work.
            if !is_path(name) {
                files::create_folder(store.folder())?;
            }
            files::check_writable(&path)?;
            let model = speech_model(&context.global, TtsKind::Base);
            let synthesizer = engine::load_synthesizer(model, context)?;
            let voice = clone(
                &synthesizer,
                ref_audio,
                ref_text.as_deref(),
                *x_vector_only,
                context,
            )?;
            match (is_path(name), replaces) {
                (true, true) => voice.save(&path)?,
                (true, false) => voice.save_new(&path)?,
                (false, true) => drop(store.replace(name, &voice)?),
                (false, false) => drop(store.save(name, &voice)?),
            }
            context.printer.note(&format!("saved {}", path.display()));
            Ok(Exit::Success)
        }
        VoicesCommand::Remove { names } => {
            let store = VoiceStore::from_env()?;
            let mut missing = Vec::new();
            for name in names {
                if !store.remove(name)? {
                    missing.push(name.as_str());
                }
            }
            if missing.is_empty() {
                return Ok(Exit::Success);
            }
            let message = format!("there is no saved voice `{}`", missing.join("`, `"));
            Err(Failure::usage(message)
                .hint("`turaco voices list` shows them")
                .into())
        }
    }
}

/// Voices and languages of the model, as far as it is here, and saved voices.
pub fn list(as_json: bool, context: &Context) -> Outcome {
    let store = VoiceStore::from_env()?;
    let saved = store.names()?;
    let name = speech_model(&context.global, TtsKind::CustomVoice);
    engine::check_speaks(name, context)?;
    // A list of voices is not worth a download.
    let checkpoint = match engine::find_here(name, context) {
        Ok(path) => Some(Qwen3TtsCheckpoint::open(&path).map_err(engine::model_failure)?),
        Err(failure) if context.global.model.is_some() => return Err(failure.into()),
        Err(_) => None,
    };
    let printer = &context.printer;
    if as_json {
        let model = checkpoint.as_ref().map(|checkpoint| {
            let config = &checkpoint.config;
            let voices: Vec<_> = config
                .speakers
                .iter()
                .map(|speaker| &speaker.name)
                .collect();
            json!({
                "name": checkpoint.name,
                "kind": config.kind.name(),
                "voices": voices,
                "languages": config.language_names().collect::<Vec<_>>(),
            })
        });
        printer.result_line(&json!({"model": model, "saved": saved}).to_string())?;
        return Ok(Exit::Success);
    }
    if let Some(checkpoint) = &checkpoint {
        let config = &checkpoint.config;
        let kind = config.kind.name();
        printer.result_line(&format!("{} ({kind})", checkpoint.name))?;
        for speaker in &config.speakers {
            let dialect = speaker
                .dialect
                .as_ref()
                .map(|dialect| format!(" ({dialect})"));
            printer.result_line(&format!(
                "  {}{}",
                speaker.name,
                dialect.unwrap_or_default()
            ))?;
        }
        let without = match config.kind {
            TtsKind::Base => "  speaks in the voice of a recording: --ref-audio, or a saved voice",
            TtsKind::VoiceDesign => "  speaks in a voice that is described: --instruct",
            TtsKind::CustomVoice => "",
        };
        if config.speakers.is_empty() && !without.is_empty() {
            printer.result_line(without)?;
        }
        let languages: Vec<_> = config.language_names().collect();
        printer.result_line(&format!("  languages: auto, {}", languages.join(", ")))?;
    } else {
        printer.note(&format!(
            "model {name} is not here; `turaco models pull {name}` downloads it"
        ));
    }
    if !saved.is_empty() {
        printer.result_line(&format!("saved in {}", store.folder().display()))?;
    }
    for name in saved {
        printer.result_line(&format!("  {name}"))?;
    }
    Ok(Exit::Success)
}

impl VoiceArgs {
    /// Whether only a Base model will do.
    pub fn needs_base(&self) -> bool {
        let saved = self.voice.as_deref().is_some_and(is_cloned);
        self.ref_audio.is_some() || self.voice_file.is_some() || saved
    }
}

/// Whether a voice was saved under this name.
pub fn is_saved(name: &str) -> bool {
    let path = VoiceStore::from_env().and_then(|store| store.path(name));
    path.is_ok_and(|path| path.is_file())
}

/// Whether a name is that of a voice of a recording: a file, or one that was saved.
pub fn is_cloned(name: &str) -> bool {
    is_path(name) || is_saved(name)
}

/// The voice that options name.
pub fn voice(
    args: &VoiceArgs,
    synthesizer: &Synthesizer,
    context: &Context,
) -> Result<Voice, Stop> {
    if let Some(path) = &args.ref_audio {
        let text = args.ref_text.as_deref();
        let voice = clone(synthesizer, path, text, args.x_vector_only, context)?;
        return Ok(Voice::Cloned(Arc::new(voice)));
    }
    if let Some(path) = &args.voice_file {
        return Ok(in_file(path, synthesizer)?);
    }
    match &args.voice {
        Some(name) => named(name, synthesizer),
        None => Ok(Voice::Default),
    }
}

/// A voice of the model, a saved one, or one in a file.
pub fn named(name: &str, synthesizer: &Synthesizer) -> Result<Voice, Stop> {
    if synthesizer.model().config().speaker(name).is_some() {
        return Ok(Voice::Named(name.to_owned()));
    }
    if is_path(name) {
        return Ok(in_file(Path::new(name), synthesizer)?);
    }
    if is_saved(name) {
        let path = VoiceStore::from_env()?.path(name)?;
        return Ok(in_file(&path, synthesizer)?);
    }
    match synthesizer.kind() {
        TtsKind::Base => Err(Failure::usage(format!(
            "there is no saved voice `{name}`, and `{}` is a Base model, which has no voices of its own",
            synthesizer.model_name()
        ))
        .hint(format!(
            "voices by name are in CustomVoice models, {}; `turaco voices list` shows saved voices, \
             `turaco voices create` makes one from a recording",
            TtsKind::CustomVoice.models()
        ))
        .into()),
        TtsKind::CustomVoice => {
            let known = synthesizer.voices().join(", ");
            Err(Failure::usage(format!("there is no voice `{name}`; the model has {known}"))
                .hint(format!(
                    "`turaco voices create` makes a voice from a recording, for Base models; {} speaks in a voice that is described",
                    TtsKind::VoiceDesign.models()
                ))
                .into())
        }
        // Its own words say how it comes by a voice.
        TtsKind::VoiceDesign => Ok(Voice::Named(name.to_owned())),
    }
}

/// The voice in a file, if the model can speak in it.
fn in_file(path: &Path, synthesizer: &Synthesizer) -> Result<Voice, Failure> {
    let voice = synthesizer.open_voice(path).map_err(|error| match error {
        Error::Io { .. } => Failure::from(error).exit(Exit::NoInput),
        other => other.into(),
    })?;
    Ok(Voice::Cloned(Arc::new(voice)))
}

pub fn is_path(name: &str) -> bool {
    name.contains(['/', '\\']) || name.ends_with(".safetensors")
}

fn clone(
    synthesizer: &Synthesizer,
    path: &Path,
    text: Option<&str>,
    x_vector_only: bool,
    context: &Context,
) -> Result<ClonedVoice, Stop> {
    let audio = recording(path, context);
    let audio = audio.map_err(|failure| match failure.code {
        // The options that other commands have for such files are not here.
        "audio_decode_failed" => failure.hint(
            "supported: wav flac mp3 aac/m4a ogg/vorbis opus webm/mkv aiff caf, and what `ffmpeg` reads if it is on PATH; \
             of anything else ffmpeg makes a file to give: `ffmpeg -f s16le -ar 16000 -ac 1 -i voice.raw voice.wav`",
        ),
        _ => failure,
    })?;
    for notice in audio.notices() {
        context.printer.note(notice);
    }
    let given = text.map(str::trim).filter(|text| !text.is_empty());
    if x_vector_only || synthesizer.kind() != TtsKind::Base {
        return Ok(synthesizer.clone_voice(&audio, None, &context.control)?);
    }
    let printer = &context.printer;
    let heard = hear(&audio, context);
    let text = match (given, &heard) {
        (Some(given), Some(heard)) => {
            let [given_words, heard_words] = [given, heard].map(|text| normalize_basic(text, true));
            // Characters, as not every language puts spaces between words.
            if character_errors(&given_words, &heard_words).rate() > DIFFERENT {
                printer.warning(&format!(
                    "the recording seems to say something else than --ref-text: \"{}\"; what is said and what is given have to be the same",
                    heard.trim()
                ));
            }
            given
        }
        (Some(given), None) => given,
        (None, Some(heard)) => {
            printer.note(&format!("heard in the recording: \"{}\"", heard.trim()));
            heard.trim()
        }
        (None, None) => {
            return Err(Failure::usage("what is said in the recording has to be known")
                .hint("--ref-text \"…\" says it, or a Whisper model that finds it out (`turaco models pull base`); --x-vector-only does without")
                .into());
        }
    };
    Ok(synthesizer.clone_voice(&audio, Some(text), &context.control)?)
}

/// The recording in a file, at an address of the web, or in a data URL.
fn recording(path: &Path, context: &Context) -> Result<Audio, Failure> {
    let read = |bytes: &mut (dyn Read + Send), name: &str| {
        let audio = AudioSource::from_reader(bytes, name, &DecodeOptions::new());
        audio.and_then(AudioSource::collect_audio)
    };
    let Some(url) = path.to_str().filter(|path| is_url(path)) else {
        let input = Input {
            path: path.to_owned(),
            stem: String::new(),
        };
        return Reading::whole().read(&input, &context.control);
    };
    if let Some(encoded) = url.strip_prefix("data:") {
        let wrong =
            || Failure::usage("a data URL of a recording is `data:audio/wav;base64,` and base64");
        let (_, encoded) = encoded.split_once(";base64,").ok_or_else(wrong)?;
        let bytes = STANDARD.decode(encoded.trim()).map_err(|_| wrong())?;
        return Ok(read(&mut &bytes[..], "--ref-audio")?);
    }
    if context.global.offline {
        return Err(Failure::usage("nothing is fetched with --offline")
            .hint("give the recording as a file"));
    }
    let mut body = address::open(url, &Hosts::Any, LARGEST_RECORDING, &context.control)?;
    Ok(read(&mut body, "--ref-audio")?)
}

fn is_url(path: &str) -> bool {
    let starts = |start: &str| {
        (path.get(..start.len())).is_some_and(|head| head.eq_ignore_ascii_case(start))
    };
    ["http://", "https://", "data:"].into_iter().any(starts)
}

/// Bytes that are fetched of a recording at most.
const LARGEST_RECORDING: u64 = 256 << 20;

/// Share of characters that differ in texts that are not of one recording; recognisers are wrong about a tenth.
const DIFFERENT: f64 = 0.5;

/// What a recogniser hears, if one is here.
fn hear(audio: &Audio, context: &Context) -> Option<String> {
    let mut names = MULTILINGUAL.iter().chain(&["tiny.en"]);
    let path = names.find_map(|name| engine::find_here(name, context).ok())?;
    let options = LoadOptions::new()
        .threads(context.global.threads)
        .device("cpu");
    let attempt = || -> turaco::Result<String> {
        let recognizer = Recognizer::load_path(&path, &options, &context.control)?;
        let sound = audio.clone().resampled(crate::sound::SAMPLE_RATE)?;
        let transcription =
            recognizer.transcribe(&sound, &TranscribeOptions::default(), &context.control)?;
        let segments = transcription.collect::<turaco::Result<Vec<_>>>()?;
        Ok(segments
            .iter()
            .map(|segment| segment.text.as_str())
            .collect())
    };
    match attempt() {
        Ok(text) => Some(text).filter(|text| !text.trim().is_empty()),
        Err(error) => {
            context.printer.message(
                Level::Verbose,
                &format!("the recording was not transcribed: {error}"),
            );
            None
        }
    }
}
