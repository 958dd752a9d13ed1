//! The `ffmpeg` program as a second decoder, for files that the built-in ones cannot read.
//!
//! It is asked for the first audio track as float WAV on a pipe, and may read nothing but the file itself.

use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::source::{Decoder, Input, check_channel};
use super::wav::{HeaderError, PcmDecoder, read_header};
use super::{audio_error, read_error};

/// What is kept of the program's messages.
const MAX_MESSAGE_BYTES: u64 = 1 << 16;

/// What of them goes into an error.
const MAX_REASON_CHARS: usize = 120;

/// Reads the samples that a running `ffmpeg` writes.
pub(super) struct FfmpegDecoder {
    pcm: PcmDecoder<BufReader<ChildStdout>>,
    process: Process,
    name: PathBuf,
    notices: Vec<String>,
    decoded: bool,
    ended: bool,
}

/// Start `program` on `input`. `None` if there is no such program; `reason` says why it is needed.
pub(super) fn open(
    program: &OsStr,
    input: &Input,
    reason: &str,
    name: &Path,
    channel: Option<usize>,
) -> Option<crate::Result<FfmpegDecoder>> {
    let mut process = match Process::start(program, input) {
        Ok(process) => process,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            return Some(Err(audio_error(
                name,
                format!("{reason}; ffmpeg cannot be started: {error}"),
            )));
        }
    };
    Some(
        process
            .first_samples(reason, name, channel)
            .map(|pcm| FfmpegDecoder {
                pcm,
                process,
                name: name.to_path_buf(),
                notices: vec![format!("decoded by ffmpeg, because {reason}")],
                decoded: false,
                ended: false,
            }),
    )
}

impl Decoder for FfmpegDecoder {
    fn sample_rate(&self) -> u32 {
        self.pcm.sample_rate()
    }

    fn expected_seconds(&self) -> Option<f64> {
        None
    }

    fn next_block(&mut self, mono: &mut Vec<f32>) -> crate::Result<Option<u32>> {
        let rate = self.pcm.next_block(mono)?;
        self.decoded |= rate.is_some();
        if rate.is_none() && !self.ended {
            self.ended = true;
            if let Err(message) = self.process.finish() {
                if !self.decoded {
                    return Err(audio_error(
                        &self.name,
                        format!("ffmpeg cannot decode it: {message}"),
                    ));
                }
                self.notices
                    .push(format!("ffmpeg stopped early: {message}"));
            }
        }
        Ok(rate)
    }

    fn take_notices(&mut self) -> Vec<String> {
        let mut notices = std::mem::take(&mut self.notices);
        notices.extend(self.pcm.take_notices());
        notices
    }
}

/// A running program, what it complains about, and the file it reads if that is ours.
struct Process {
    child: Child,
    messages: Option<JoinHandle<String>>,
    _input: Option<TemporaryFile>,
}

impl Process {
    fn start(program: &OsStr, input: &Input) -> io::Result<Self> {
        let (path, temporary) = match input {
            Input::File(path) => (path.clone(), None),
            Input::Bytes(bytes) => {
                let file = TemporaryFile::new(bytes.as_ref())?;
                (file.0.clone(), Some(file))
            }
        };
        // The prefix keeps names such as `concat:x` from being taken as protocols.
        let mut url = OsString::from("file:");
        url.push(path);
        let mut child = Command::new(program)
            .args([
                "-nostdin",
                "-hide_banner",
                "-loglevel",
                "error",
                "-protocol_whitelist",
                "file,pipe",
                "-i",
            ])
            .arg(url)
            .args(["-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav", "pipe:1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // Read aside, so that a program with much to say does not wait for us.
        let messages = child.stderr.take().map(|mut stderr| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let _ = (&mut stderr).take(MAX_MESSAGE_BYTES).read_to_end(&mut text);
                let _ = io::copy(&mut stderr, &mut io::sink());
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        Ok(Self {
            child,
            messages,
            _input: temporary,
        })
    }

    /// Read the header that the program writes.
    fn first_samples(
        &mut self,
        reason: &str,
        name: &Path,
        channel: Option<usize>,
    ) -> crate::Result<PcmDecoder<BufReader<ChildStdout>>> {
        let failed = |message: String| {
            audio_error(
                name,
                format!("{reason}; ffmpeg cannot read it either: {message}"),
            )
        };
        let Some(stdout) = self.child.stdout.take() else {
            return Err(failed("it has no output".into()));
        };
        let mut stdout = BufReader::new(stdout);
        match read_header(&mut stdout) {
            Ok(header) => {
                check_channel(channel, usize::from(header.channels))?;
                Ok(PcmDecoder::new(stdout, header, channel, name))
            }
            Err(HeaderError::Io(error)) => Err(read_error(name, error)),
            Err(HeaderError::Invalid(message) | HeaderError::Codec(message)) => {
                Err(failed(self.finish().err().unwrap_or(message)))
            }
        }
    }

    /// Wait for the end; an unsuccessful one gives the reason.
    fn finish(&mut self) -> Result<(), String> {
        let messages = self
            .messages
            .take()
            .and_then(|messages| messages.join().ok());
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(messages
                .as_deref()
                .and_then(reason_in)
                .unwrap_or_else(|| status.to_string())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Why the program gave up: what it says first, without its own addresses and our name of the file.
fn reason_in(messages: &str) -> Option<String> {
    if messages.contains("matches no streams") {
        return Some("it has no audio track".into());
    }
    let mut line = messages
        .lines()
        .find(|line| !line.trim().is_empty())?
        .trim();
    // `[mp3float @ 0x5564a0] `
    while let Some((_, rest)) = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        line = rest.trim_start();
    }
    // `file:the name: `
    if line.starts_with("file:")
        && let Some((_, rest)) = line.rsplit_once(": ")
    {
        line = rest;
    }
    let short: String = line.chars().take(MAX_REASON_CHARS).collect();
    (!short.is_empty()).then_some(short)
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails if it has ended already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file of ours that goes away with this value.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new(contents: &[u8]) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("turaco-{}-{unique}.audio", std::process::id()));
        let mut options = OpenOptions::new();
        // Never an existing file, and nobody else's business.
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path)?;
        let guard = Self(path);
        file.write_all(contents)?;
        Ok(guard)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::{AudioSource, DecodeOptions, decode};

    const PROGRAM: &str = "ffmpeg";
    const SPEEX: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../testdata/audio/clip_speex.ogg"
    );

    fn is_installed() -> bool {
        let there = Command::new(PROGRAM)
            .arg("-version")
            .stdout(Stdio::null())
            .status()
            .is_ok();
        if !there {
            eprintln!("skipped: no ffmpeg on PATH");
        }
        there
    }

    #[test]
    fn other_codecs_are_decoded_and_that_is_said() {
        if !is_installed() {
            return;
        }
        let from_file = decode(SPEEX, &DecodeOptions::new()).unwrap();
        let bytes = std::fs::read(SPEEX).unwrap();
        let from_bytes = crate::Audio::from_bytes(bytes, "upload").unwrap();
        for audio in [from_file, from_bytes] {
            assert_eq!(audio.sample_rate(), 8000);
            assert!(
                (audio.duration() - 0.6).abs() < 0.05,
                "{}",
                audio.duration()
            );
            assert!(
                audio.notices()[0].contains("ffmpeg"),
                "{:?}",
                audio.notices()
            );
        }
    }

    #[test]
    fn without_the_program_the_codec_is_named() {
        let input = Input::File(SPEEX.into());
        assert!(
            open(
                OsStr::new("no-such-program"),
                &input,
                "",
                Path::new("x"),
                None
            )
            .is_none()
        );
        let error = decode(SPEEX, &DecodeOptions::new().built_in_only(true)).unwrap_err();
        assert!(
            error.to_string().contains("Speex") || error.to_string().contains("Ogg"),
            "{error}"
        );
    }

    #[test]
    fn its_reason_is_told_shortly() {
        for (messages, reason) in [
            (
                "[mp3float @ 0x56] Header missing\n    Last message repeated\nError\n",
                "Header missing",
            ),
            ("file:a: b.wav: Invalid data found\n", "Invalid data found"),
            (
                "[in#0 @ 0x1] [x @ 0x2] moov atom not found\n",
                "moov atom not found",
            ),
            (
                "[png @ 0x55] chunk too big\nStream map '0:a:0' matches no streams.\nTo ignore this, add a '?'.\n",
                "it has no audio track",
            ),
        ] {
            assert_eq!(reason_in(messages).as_deref(), Some(reason));
        }
        assert_eq!(reason_in(" \n\n"), None);
        assert_eq!(
            reason_in(&"x".repeat(1000)).unwrap().len(),
            MAX_REASON_CHARS
        );
    }

    #[test]
    fn what_it_cannot_read_is_an_error() {
        if !is_installed() {
            return;
        }
        let error = crate::Audio::from_bytes(b"wvpk then nothing of use".to_vec(), "broken.wv")
            .unwrap_err();
        assert!(matches!(error, crate::Error::Audio { .. }));
        assert!(error.to_string().contains("ffmpeg"), "{error}");
    }

    #[test]
    fn a_dropped_source_stops_it() {
        if !is_installed() {
            return;
        }
        let mut source = AudioSource::open(SPEEX, &DecodeOptions::new()).unwrap();
        source.next_block().unwrap();
        drop(source);
    }
}
