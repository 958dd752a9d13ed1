//! Wyoming, the protocol of Home Assistant's voices, over TCP or a socket in the file system.

mod frame;
mod hearing;
mod info;
mod voice;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::app::{App, blocking};
use crate::connections::{FAREWELL, ended, pause};
use crate::error::ApiError;
use crate::listener::{Listener, Wire};
use crate::realtime::EarEvent;
use crate::synthesis::Text;
use frame::Frame;
use hearing::Hearing;
use voice::{Utterance, Voice, ends, error_frame};

/// Messages between the tasks of a connection.
const WAITING: usize = 16;

/// How long a client may take to receive a message.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answer connections until `app` ends.
pub async fn serve(app: &App, listener: Listener) {
    let mut ending = app.ending();
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = ended(&mut ending) => break,
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    open.spawn(connection(app.clone(), stream));
                }
                Err(error) => pause(&error).await,
            },
            Some(_) = open.join_next() => {}
        }
    }
    drop(listener);
    let finish = async { while open.join_next().await.is_some() {} };
    // What is still open then is dropped, and its work cancelled.
    let _ = tokio::time::timeout(app.config().grace + FAREWELL, finish).await;
}

async fn connection(app: App, stream: Box<dyn Wire>) {
    let (reader, writer) = tokio::io::split(stream);
    let (frames, mut incoming) = mpsc::channel(WAITING);
    let (out, outgoing) = mpsc::channel(WAITING);
    let mut tasks = JoinSet::new();
    let reading = tasks.spawn(read(reader, frames));
    let mut writing = tokio::spawn(write(writer, outgoing));
    let _place = match app.open_session() {
        Ok(place) => place,
        Err(error) => {
            drop(out.send(error_frame(&app, &error)).await);
            return;
        }
    };
    let (texts, waiting_texts) = mpsc::channel(WAITING);
    let speaking = Arc::new(());
    tasks.spawn(voice::say(app.clone(), waiting_texts, out.clone()));
    let (events, mut heard) = mpsc::unbounded_channel();
    let mut client = Client {
        hearing: Hearing::new(&app, events),
        app: app.clone(),
        out,
        texts: Some(texts),
        speaking: Arc::clone(&speaking),
        streaming: None,
    };
    let mut ending = app.ending();
    let idle = app.config().session_timeout;
    // Sound for the next text, while the last one is still coming.
    let mut held = None;
    loop {
        let is_finishing = client.hearing.is_finishing();
        if let Some(frame) = held.take_if(|_| !is_finishing) {
            if client.frame_or_error(frame).await.is_err() {
                break;
            }
            continue;
        }
        let done = tokio::select! {
            frame = incoming.recv(), if held.is_none() => match frame {
                Some(Ok(frame)) if is_finishing && frame.is_sound() => {
                    held = Some(frame);
                    Ok(())
                }
                Some(Ok(frame)) => client.frame_or_error(frame).await,
                Some(Err(message)) => {
                    let error = ApiError::malformed(message);
                    drop(client.out.send(error_frame(&app, &error)).await);
                    break;
                }
                None => break,
            },
            Some(event) = heard.recv() => client.heard(event).await,
            _ = &mut writing => return,
            () = ended(&mut ending) => break,
            // Who waits for a text or for sound is not idle.
            () = tokio::time::sleep(idle) => match is_finishing || Arc::strong_count(&speaking) > CLIENT_AND_LOOP {
                true => Ok(()),
                false => break,
            },
        };
        if done.is_err() {
            break;
        }
    }
    // What was asked for last is still answered if the client only stopped asking, or the server ends.
    reading.abort();
    client.texts = None;
    client.streaming = None;
    if *ending.borrow() {
        client.hearing.finish();
    }
    let rest = async {
        while client.hearing.is_finishing()
            && let Some(event) = heard.recv().await
        {
            if client.heard(event).await.is_err() {
                break;
            }
        }
        drop(client);
        while tasks.join_next().await.is_some() {}
        let _ = writing.await;
    };
    let mut rest = std::pin::pin!(rest);
    tokio::select! {
        () = &mut rest => return,
        () = ended(&mut ending) => {}
    }
    let _ = tokio::time::timeout(app.config().grace, rest).await;
}

/// Who holds the mark of a connection that says nothing.
const CLIENT_AND_LOOP: usize = 2;

/// The client is gone.
struct Gone;

async fn read(reader: impl AsyncRead + Unpin, frames: mpsc::Sender<Result<Frame, String>>) {
    let mut reader = BufReader::new(reader);
    loop {
        let frame = match Frame::read(&mut reader).await {
            Ok(Some(frame)) => Ok(frame),
            Ok(None) => return,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err(error.to_string()),
            Err(_) => return,
        };
        if frames.send(frame).await.is_err() {
            return;
        }
    }
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        match tokio::time::timeout(PATIENCE, frame.write(&mut writer)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
    // The client knows that nothing more comes, even if it still sends.
    let _ = writer.shutdown().await;
}

/// What a client has asked for so far.
struct Client {
    app: App,
    hearing: Hearing,
    out: mpsc::Sender<Frame>,
    texts: Option<mpsc::Sender<Utterance>>,
    /// Each text that is not said yet holds it too.
    speaking: Arc<()>,
    /// Takes the pieces of a text that still comes.
    streaming: Option<Pieces>,
}

struct Pieces {
    sender: mpsc::UnboundedSender<String>,
    n_characters: usize,
}

impl Client {
    /// Do what a client asks for, or tell it why not, and end what it waits for.
    async fn frame_or_error(&mut self, frame: Frame) -> Result<(), Gone> {
        let kind = frame.kind.clone();
        let Err(error) = self.frame(frame).await else {
            return self.end_failed().await;
        };
        self.tell(error_frame(&self.app, &error)).await?;
        match kind.as_str() {
            "synthesize" | "synthesize-start" => {
                for end in ends(kind == "synthesize-start") {
                    self.tell(end).await?;
                }
            }
            _ => self.end_failed().await?,
        }
        Ok(())
    }

    /// What an ear tells, for the client.
    async fn heard(&mut self, event: EarEvent) -> Result<(), Gone> {
        let (frames, failure) = self.hearing.heard(event);
        for frame in frames {
            self.tell(frame).await?;
        }
        if let Some(error) = failure {
            self.tell(error_frame(&self.app, &error)).await?;
        }
        self.end_failed().await
    }

    /// Give a client the transcript that it waits for, with what was heard before something failed.
    async fn end_failed(&mut self) -> Result<(), Gone> {
        for frame in self.hearing.owed() {
            self.tell(frame).await?;
        }
        Ok(())
    }

    async fn tell(&self, frame: Frame) -> Result<(), Gone> {
        self.out.send(frame).await.map_err(|_| Gone)
    }

    async fn frame(&mut self, frame: Frame) -> Result<(), ApiError> {
        match frame.kind.as_str() {
            "describe" => {
                let answer = blocking(&self.app, |app, _| info::info(app)).await?;
                self.send(answer).await
            }
            "ping" => {
                let data = json!({"text": frame.text("text")});
                self.send(Frame::new("pong", data)).await
            }
            "transcribe" => self.hearing.transcribe(&frame),
            "audio-start" => self.hearing.start(&frame),
            "audio-chunk" => self.hearing.hear(&frame).await,
            "audio-stop" => self.hearing.stop().await,
            // Clients that stream send the whole text too, for servers that cannot.
            "synthesize" if self.streaming.is_some() => Ok(()),
            "synthesize" => {
                let text = frame
                    .text("text")
                    .ok_or_else(|| ApiError::missing("text"))?;
                self.check_text(text.chars().count())?;
                self.check_format(&frame)?;
                let text = Text::Whole(text.to_owned());
                self.say(text, &frame, false).await
            }
            "synthesize-start" => {
                self.check_format(&frame)?;
                let (sender, pieces) = mpsc::unbounded_channel();
                self.say(Text::Arriving(pieces), &frame, true).await?;
                self.streaming = Some(Pieces {
                    sender,
                    n_characters: 0,
                });
                Ok(())
            }
            "synthesize-chunk" => {
                let text = frame.text("text").unwrap_or_default();
                let Some(pieces) = &mut self.streaming else {
                    return Err(ApiError::malformed("there was no synthesize-start"));
                };
                pieces.n_characters += text.chars().count();
                let count = pieces.n_characters;
                // Who speaks has failed, and said so.
                let _ = pieces.sender.send(text.to_owned());
                self.check_text(count)
            }
            "synthesize-stop" => {
                self.streaming = None;
                Ok(())
            }
            // Later versions know more.
            _ => Ok(()),
        }
    }

    async fn say(&mut self, text: Text, frame: &Frame, streamed: bool) -> Result<(), ApiError> {
        let utterance = Utterance {
            text,
            voice: Voice::new(frame.data.get("voice")),
            streamed,
            speaking: Arc::clone(&self.speaking),
        };
        let Some(texts) = &self.texts else {
            return Ok(());
        };
        texts
            .try_send(utterance)
            .map_err(|_| ApiError::queue_full())
    }

    fn check_text(&mut self, count: usize) -> Result<(), ApiError> {
        let most = self.app.config().max_text;
        if count <= most {
            return Ok(());
        }
        self.streaming = None;
        let message = format!("{count} characters are more than the limit of {most}");
        Err(ApiError::invalid("text", message))
    }

    fn check_format(&self, frame: &Frame) -> Result<(), ApiError> {
        match frame.text("text_format") {
            None | Some("text") => Ok(()),
            Some(other) => {
                let message = format!("texts of the format `{other}` are not read; plain text is");
                Err(ApiError::unsupported("text_format", message))
            }
        }
    }

    async fn send(&self, frame: Frame) -> Result<(), ApiError> {
        let sent = self.out.send(frame).await;
        Ok(sent.map_err(|_| turaco::Error::Cancelled)?)
    }
}
