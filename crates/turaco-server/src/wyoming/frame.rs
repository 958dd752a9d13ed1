//! The messages of Wyoming: a line of JSON, more JSON behind it, and bytes behind that.

use std::io;

use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of the first line.
const MAX_LINE: usize = 1 << 16;

/// Bytes of the JSON behind it; texts to be spoken are in it.
const MAX_DATA: u64 = 4 << 20;

/// Bytes behind that: sound.
const MAX_PAYLOAD: u64 = 16 << 20;

/// One message.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub kind: String,
    pub data: Map<String, Value>,
    pub payload: Vec<u8>,
}

impl Frame {
    /// A message without bytes; `data` is an object.
    pub fn new(kind: &str, data: Value) -> Self {
        Self {
            kind: kind.to_owned(),
            data: match data {
                Value::Object(data) => data,
                _ => Map::new(),
            },
            payload: Vec::new(),
        }
    }

    /// Whether this is about sound that is to be written down.
    pub fn is_sound(&self) -> bool {
        let kinds = ["transcribe", "audio-start", "audio-chunk", "audio-stop"];
        kinds.contains(&self.kind.as_str())
    }

    /// A text of the data.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.data.get(key)?.as_str()
    }

    /// A number of the data.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.data.get(key)?.as_u64()
    }

    /// Read a message; `None` at the end.
    ///
    /// # Errors
    /// Those of the reader, and what is no message.
    pub async fn read(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Self>> {
        let mut line = Vec::new();
        let mut limited = (&mut *reader).take(MAX_LINE as u64);
        limited.read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            return Err(wrong("the first line has no end"));
        }
        let header: Map<String, Value> =
            serde_json::from_slice(&line).map_err(|error| wrong(&error.to_string()))?;
        let kind = header.get("type").and_then(Value::as_str);
        let kind = kind.ok_or_else(|| wrong("the first line has no `type`"))?;
        let mut data = match header.get("data") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(data)) => data.clone(),
            Some(_) => return Err(wrong("`data` is no object")),
        };
        let len = |key: &str, most: u64| match header.get(key) {
            None | Some(Value::Null) => Ok(0),
            Some(value) => match value.as_u64() {
                Some(len) if len <= most => Ok(len),
                _ => Err(wrong(&format!("`{key}` is no number up to {most}"))),
            },
        };
        let more = bytes(reader, len("data_length", MAX_DATA)?).await?;
        if !more.is_empty() {
            let more: Map<String, Value> =
                serde_json::from_slice(&more).map_err(|error| wrong(&error.to_string()))?;
            data.extend(more);
        }
        let payload = bytes(reader, len("payload_length", MAX_PAYLOAD)?).await?;
        Ok(Some(Self {
            kind: kind.to_owned(),
            data,
            payload,
        }))
    }

    /// Write the message.
    ///
    /// # Errors
    /// Those of the writer.
    pub async fn write(&self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut header = json!({"type": self.kind, "version": env!("CARGO_PKG_VERSION")});
        let mut data = Vec::new();
        if !self.data.is_empty() {
            data = Value::Object(self.data.clone()).to_string().into_bytes();
            header["data_length"] = data.len().into();
        }
        if !self.payload.is_empty() {
            header["payload_length"] = self.payload.len().into();
        }
        let mut out = header.to_string().into_bytes();
        out.push(b'\n');
        out.extend_from_slice(&data);
        out.extend_from_slice(&self.payload);
        writer.write_all(&out).await?;
        writer.flush().await
    }
}

/// `len` bytes; memory grows with what really comes.
async fn bytes(reader: &mut (impl AsyncBufRead + Unpin), len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    (&mut *reader).take(len).read_to_end(&mut bytes).await?;
    match bytes.len() as u64 == len {
        true => Ok(bytes),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn wrong(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Option<Frame>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(Frame::read(&mut &bytes[..]))
    }

    #[test]
    fn what_is_written_is_read() {
        let mut frame = Frame::new("audio-chunk", json!({"rate": 16000, "text": "ä\n"}));
        frame.payload = vec![1, 2, 3];
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut bytes = Vec::new();
        runtime.block_on(frame.write(&mut bytes)).unwrap();
        assert_eq!(read(&bytes).unwrap(), Some(frame));
        assert_eq!(read(b"").unwrap(), None);
        for len in 1..bytes.len() {
            assert!(read(&bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [
            &b"hello\n"[..],
            b"{}\n",
            b"[1]\n",
            b"{\"type\": \"a\", \"data\": 3}\n",
            b"{\"type\": \"a\", \"data_length\": -1}\n",
            b"{\"type\": \"a\", \"payload_length\": 99999999999}\n",
            b"{\"type\": \"a\", \"data_length\": 2}\n[]",
        ] {
            assert!(read(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        let inline =
            read(b"{\"type\": \"a\", \"data\": {\"x\": 1}, \"data_length\": 7}\n{\"y\":2}");
        let data = inline.unwrap().unwrap().data;
        assert_eq!(Value::Object(data), json!({"x": 1, "y": 2}));
    }
}
