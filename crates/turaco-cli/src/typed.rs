//! Lines that come in through standard input, read aside so that Ctrl-C does not have to wait for the next one.

use std::io::{self, BufRead};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use turaco::Control;

use crate::exit::{Failure, Stop};

/// Lines on their way.
pub struct TypedLines {
    receiver: Receiver<io::Result<String>>,
}

impl TypedLines {
    /// Begin to read.
    pub fn read() -> Self {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            for line in io::stdin().lock().lines() {
                // Nobody receives after Ctrl-C.
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { receiver }
    }

    /// The next line without its end; `None` at the end.
    pub fn next(&self, control: &Control) -> Result<Option<String>, Stop> {
        loop {
            match self.receiver.recv_timeout(Duration::from_millis(50)) {
                Ok(Ok(line)) => return Ok(Some(line)),
                Ok(Err(error)) => {
                    let what = "what comes in cannot be read as text";
                    return Err(Failure::input(Path::new("-"), what)
                        .caused_by(&error)
                        .into());
                }
                Err(RecvTimeoutError::Timeout) => control.check()?,
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }
}
