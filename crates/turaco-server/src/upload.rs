//! Forms with a recording in them. The recording is decoded while it arrives.

use std::io::{self, Read};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use turaco::Audio;
use turaco::audio::{AudioSource, DecodeOptions};

use crate::app::App;
use crate::deadline;
use crate::error::ApiError;
use crate::sound_room::Share;
use crate::traces;

/// The rate that recognisers and detectors hear.
pub const SAMPLE_RATE: u32 = 16_000;

/// Bytes of the texts of all fields.
const MAX_TEXT: usize = 1 << 20;

/// Fields of a form.
const MAX_FIELDS: usize = 256;

/// Hours of sound in one upload: a small file can hold days, which no memory does.
const MAX_HOURS: f64 = 12.0;

/// Bytes of a refused body that are received, and how long that may take.
const DISCARDED: usize = 32 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// How long the next bytes of an upload may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that come in each [`PATIENCE`] at least. Speech that is sent while it is recorded is four times as much at the lowest rates
/// of its codecs.
const LEAST: usize = 12 << 10;

/// How an upload comes along: who sends drops holds a place that others wait for.
struct Pace {
    deadline: Option<Instant>,
    /// How long the client was waited for in the stretch that is looked at, and what came in it.
    waited: Duration,
    n_bytes: usize,
}

impl Pace {
    fn new(app: &App) -> Self {
        Self {
            deadline: deadline::of_request(app),
            waited: Duration::ZERO,
            n_bytes: 0,
        }
    }

    /// Wait for more of the upload.
    async fn wait<T>(&mut self, more: impl Future<Output = T>) -> Result<T, ApiError> {
        let started = Instant::now();
        let more = tokio::time::timeout(PATIENCE, more);
        let more = deadline::until(self.deadline, more).await?;
        self.waited += started.elapsed();
        more.map_err(|_| ApiError::timed_out("the upload stopped coming"))
    }

    /// More came.
    fn came(&mut self, n_bytes: usize) -> Result<(), ApiError> {
        self.n_bytes += n_bytes;
        if self.waited < PATIENCE {
            return Ok(());
        }
        if self.n_bytes < LEAST {
            let message = format!(
                "the upload comes too slowly: less than {LEAST} bytes in {} s",
                PATIENCE.as_secs()
            );
            return Err(ApiError::timed_out(&message));
        }
        (self.waited, self.n_bytes) = (Duration::ZERO, 0);
        Ok(())
    }
}

/// The parts of a form.
#[derive(Debug)]
pub struct Form {
    /// The recording.
    pub audio: Option<Audio>,
    /// What the recording takes; dropped when nobody needs that any more.
    pub share: Share,
    /// Names and texts of the other fields, in order; `name[]` is `name`.
    pub fields: Vec<(String, String)>,
}

impl Form {
    /// Receive a form whose recording is in the field `file`, and bring it to [`SAMPLE_RATE`].
    ///
    /// # Errors
    /// Another body, one that is too large or cut off, a recording that cannot be decoded.
    pub async fn receive(app: &App, request: Request) -> Result<Self, ApiError> {
        Self::receive_at(app, request, Some(SAMPLE_RATE)).await
    }

    /// The same at another rate; `None` = the recording's own.
    ///
    /// # Errors
    /// As [`receive`](Self::receive).
    pub async fn receive_at(
        app: &App,
        request: Request,
        rate: Option<u32>,
    ) -> Result<Self, ApiError> {
        let limit = app.config().max_upload;
        let content_type = request.headers().get(header::CONTENT_TYPE);
        let content_type = content_type.and_then(|kind| kind.to_str().ok());
        if !content_type.is_some_and(|kind| is_of_type(kind, "multipart/form-data")) {
            discard(request.into_body()).await;
            return Err(ApiError::wrong_type("multipart/form-data"));
        }
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > limit) {
            discard(request.into_body()).await;
            return Err(ApiError::too_large(limit));
        }
        let multipart = Multipart::from_request(request, &()).await;
        let mut multipart = multipart.map_err(|error| ApiError::malformed(error.body_text()))?;
        let wrong = |error: MultipartError| match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(limit),
            _ => ApiError::malformed(format!(
                "the form is broken or cut off: {}",
                error.body_text()
            )),
        };
        let mut form = Self {
            audio: None,
            share: app.sound_share(),
            fields: Vec::new(),
        };
        let mut pace = Pace::new(app);
        // What a recording has wrong is told when the client has sent everything: it would not listen before.
        let mut failed = None;
        let (mut count, mut n_bytes) = (0, 0);
        while let Some(field) = pace.wait(multipart.next_field()).await?.map_err(wrong)? {
            count += 1;
            if count > MAX_FIELDS {
                return Err(ApiError::malformed(format!(
                    "more than {MAX_FIELDS} fields"
                )));
            }
            let name = field.name().unwrap_or_default();
            let name = name.strip_suffix("[]").unwrap_or(name).to_owned();
            match name == "file" {
                true => match receive_audio(app, (field, rate), &mut pace).await? {
                    Received::Audio(audio, share) => {
                        (form.audio, form.share) = (Some(audio), share)
                    }
                    Received::Undecodable(error) => failed = Some(error),
                    Received::Broken(error) => return Err(wrong(error)),
                },
                false => {
                    let room = MAX_TEXT - n_bytes;
                    let text = receive_text(field, (&name, room), &mut pace)
                        .await?
                        .map_err(wrong)?;
                    n_bytes += text.len();
                    form.fields.push((name, text));
                }
            }
        }
        failed.map_or(Ok(form), Err)
    }

    /// The last text of a field.
    pub fn text(&self, name: &str) -> Option<&str> {
        let mut all = self.fields.iter().rev();
        let found = all.find(|(known, _)| known == name);
        found.map(|(_, text)| text.as_str())
    }

    /// All texts of a field.
    pub fn texts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let all = self.fields.iter();
        all.filter(move |(known, _)| known == name)
            .map(|(_, text)| text.as_str())
    }
}

/// Receive what is not wanted, within bounds: clients that are still sending do not listen to a refusal.
pub async fn discard(body: Body) {
    let mut left = DISCARDED;
    let receive = async {
        let mut chunks = body.into_data_stream();
        while let Some(Ok(chunk)) = chunks.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    // Who is slower is not waited for.
    let _ = tokio::time::timeout(DISCARD_TIME, receive).await;
}

async fn receive_text(
    mut field: Field<'_>,
    (name, room): (&str, usize),
    pace: &mut Pace,
) -> Result<Result<String, MultipartError>, ApiError> {
    let mut bytes = Vec::new();
    loop {
        match pace.wait(field.chunk()).await? {
            Err(error) => return Ok(Err(error)),
            Ok(None) => break,
            Ok(Some(chunk)) => {
                pace.came(chunk.len())?;
                bytes.extend_from_slice(&chunk);
                if bytes.len() > room {
                    let message =
                        format!("the texts of all fields are longer than {MAX_TEXT} bytes");
                    return Err(ApiError::invalid(name, message));
                }
            }
        }
    }
    let text = String::from_utf8(bytes);
    text.map(Ok)
        .map_err(|_| ApiError::invalid(name, "this is not UTF-8 text"))
}

enum Received {
    Audio(Audio, Share),
    Undecodable(ApiError),
    Broken(MultipartError),
}

async fn receive_audio(
    app: &App,
    (mut field, rate): (Field<'_>, Option<u32>),
    pace: &mut Pace,
) -> Result<Received, ApiError> {
    let name = shown_name(field.file_name());
    let (sender, receiver) = mpsc::channel(16);
    let reader = Incoming {
        receiver,
        current: Bytes::new(),
    };
    let trace = traces::current();
    let mut share = app.sound_share();
    let decoding = tokio::task::spawn_blocking(move || {
        let decode = || decode(reader, &name, rate, &mut share);
        let decoded = traces::recorded(trace.as_ref(), decode);
        decoded.map(|audio| (audio, share))
    });
    let mut broken = None;
    loop {
        match pace.wait(field.chunk()).await? {
            Ok(None) => break,
            // A decoder that has given up takes nothing; the rest is received all the same.
            Ok(Some(chunk)) => {
                pace.came(chunk.len())?;
                drop(sender.send(Ok(chunk)).await);
            }
            Err(error) => {
                drop(sender.send(Err(())).await);
                broken = Some(error);
                break;
            }
        }
    }
    drop(sender);
    let decoded = decoding.await;
    if let Some(error) = broken {
        return Ok(Received::Broken(error));
    }
    match decoded {
        Ok(Ok((audio, share))) => Ok(Received::Audio(audio, share)),
        Ok(Err(error)) => Ok(Received::Undecodable(error)),
        Err(panic) => Err(ApiError::internal(panic.to_string())),
    }
}

/// Decode a recording to `rate` (`None` = its own); external programs are not asked for help with what strangers send.
///
/// # Errors
/// What is no recording, or a longer one than memory is for, which `share` is taken of.
pub fn decode(
    reader: impl Read + Send,
    name: &str,
    rate: Option<u32>,
    share: &mut Share,
) -> Result<Audio, ApiError> {
    let _span = turaco::trace::span("decode");
    let mut options = DecodeOptions::new().built_in_only(true);
    options.target_rate = rate;
    let mut source = AudioSource::from_reader(reader, name, &options)?;
    let mut samples = Vec::new();
    let rate = source.sample_rate();
    let most = (MAX_HOURS * 3600.0 * f64::from(rate)) as usize;
    let mut room = share.recording();
    while let Some(block) = source.next_block()? {
        room.reach(samples.len() + block.len())?;
        samples.extend_from_slice(&block);
        if samples.len() > most {
            let mut error = ApiError::too_large(0);
            error.message = format!("the recording is longer than {MAX_HOURS} hours");
            return Err(error);
        }
    }
    Ok(Audio::from_samples(samples, rate)?)
}

/// The name of an upload as messages show it: no folders, nothing long.
/// Whether a content type, with whatever parameters, is this one; their names have no case.
pub fn is_of_type(content_type: &str, name: &str) -> bool {
    let own = content_type.split(';').next().unwrap_or_default();
    own.trim().eq_ignore_ascii_case(name)
}

fn shown_name(given: Option<&str>) -> String {
    let name = given.unwrap_or_default();
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let plain: String = name
        .chars()
        .filter(|character| !character.is_control())
        .take(100)
        .collect();
    match plain.is_empty() {
        true => "file".into(),
        false => plain,
    }
}

/// What arrives elsewhere, for a decoder that blocks.
struct Incoming {
    receiver: mpsc::Receiver<Result<Bytes, ()>>,
    current: Bytes,
}

impl Read for Incoming {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(Ok(bytes)) => self.current = bytes,
                Some(Err(())) => return Err(io::Error::other("the upload broke off")),
                None => return Ok(0),
            }
        }
        let taken = self.current.split_to(out.len().min(self.current.len()));
        out[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}
