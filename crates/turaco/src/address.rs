//! What lies at an address of the web: recordings that are fetched, and reports that are sent.
//!
//! Proxies and certificates are those of the environment, as for downloads of models.

use std::io::{self, Read};

use crate::hub::http::{Client, Failure, without_query};
use crate::{Control, Error, Result};

/// Which hosts may be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hosts {
    /// All that the machine reaches, those of its own network included.
    Any,
    /// These names, which redirects cannot leave either.
    Only(Vec<String>),
}

/// Opens what `url` leads to; reading fails beyond `limit` bytes and when `control` is cancelled.
///
/// # Errors
/// [`Error::InvalidOption`] (`url`) for what is no address of a host that may be asked, [`Error::Network`] if nothing comes from it.
pub fn open(url: &str, hosts: &Hosts, limit: u64, control: &Control) -> Result<impl Read + Send> {
    let client = match hosts {
        Hosts::Any => client(url, None)?,
        Hosts::Only(names) => client(url, None)?.only(names),
    };
    let reply = client
        .get(url, &|_| None)
        .map_err(|failure| lost(url, failure))?;
    if reply.status() != 200 {
        return Err(Error::Network {
            message: format!("the server answered with status {}", reply.status()),
            url: reply.url,
        });
    }
    Ok(Limited {
        body: reply.response.into_body().into_reader(),
        left: limit,
        control: control.clone(),
    })
}

/// Sends JSON to one address, again and again.
pub struct Reports {
    client: Client,
    url: String,
    headers: Vec<(String, String)>,
}

impl Reports {
    /// Reports to `url`, with `headers`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] (`url`) for what is no address.
    pub fn new(url: &str, headers: Vec<(String, String)>) -> Result<Self> {
        Ok(Self {
            client: client(url, None)?,
            url: url.to_owned(),
            headers,
        })
    }

    /// Send one.
    ///
    /// # Errors
    /// [`Error::Network`] if it is not taken.
    pub fn send(&self, json: &str) -> Result<()> {
        let reply = self.client.post_json(&self.url, json, &self.headers);
        let reply = reply.map_err(|failure| lost(&self.url, failure))?;
        match reply.status() {
            200..=299 => Ok(()),
            status => Err(Error::Network {
                url: reply.url,
                message: format!("the server answered with status {status}"),
            }),
        }
    }
}

fn client(url: &str, token: Option<String>) -> Result<Client> {
    let client = Client::new(url, token, &|name| std::env::var_os(name));
    client.map_err(|error| match error {
        Error::InvalidOption {
            option: "HF_ENDPOINT",
            ..
        } => Error::InvalidOption {
            option: "url",
            message: format!(
                "`{}` is no address of the form https://host/path",
                without_query(url)
            ),
        },
        error => error,
    })
}

fn lost(url: &str, failure: Failure) -> Error {
    let url = without_query(url);
    match failure {
        Failure::Refused(message) => Error::InvalidOption {
            option: "url",
            message: format!("{message} [{url}]"),
        },
        Failure::Unreachable(message) | Failure::Broken(message) => Error::Network { url, message },
    }
}

/// A body of some length, that somebody waits for.
struct Limited<R> {
    body: R,
    left: u64,
    control: Control,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.control.is_cancelled() {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        let n_read = self.body.read(buffer)?;
        self.left = self
            .left
            .checked_sub(n_read as u64)
            .ok_or_else(|| io::Error::other("more bytes than are taken"))?;
        Ok(n_read)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers every connection with `answer`.
    fn server(answer: String) -> String {
        use std::io::Write as _;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    fn read(url: &str, hosts: &Hosts, limit: u64) -> std::result::Result<String, String> {
        let control = Control::new();
        let mut reader = open(url, hosts, limit, &control).map_err(|error| error.to_string())?;
        let mut text = String::new();
        let read = reader.read_to_string(&mut text);
        read.map(|_| text).map_err(|error| error.to_string())
    }

    #[test]
    fn bodies_are_read_up_to_their_limit() {
        let body = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        let url = server(body.into());
        assert_eq!(read(&url, &Hosts::Any, 5).unwrap(), "hello");
        assert!(read(&url, &Hosts::Any, 4).unwrap_err().contains("more"));
        let only = |name: &str| Hosts::Only(vec![name.to_owned()]);
        assert_eq!(read(&url, &only("127.0.0.1"), 5).unwrap(), "hello");
        let refused = read(&url, &only("example.org"), 5).unwrap_err();
        assert!(refused.contains("may not be asked"), "{refused}");
    }

    #[test]
    fn redirects_do_not_leave_the_hosts() {
        let moved = "HTTP/1.1 302 Found\r\nLocation: http://localhost:1/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let url = server(moved.into());
        let refused = read(&url, &Hosts::Only(vec!["127.0.0.1".into()]), 5).unwrap_err();
        assert!(refused.contains("localhost"), "{refused}");
    }

    #[test]
    fn what_is_no_recording_is_told() {
        let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let url = server(missing.into());
        let error = read(&format!("{url}/a.wav?key=secret"), &Hosts::Any, 5).unwrap_err();
        assert!(
            error.contains("404") && !error.contains("secret"),
            "{error}"
        );
        for url in ["file:///etc/passwd", "ftp://host/a", "nonsense"] {
            assert!(
                read(url, &Hosts::Any, 5)
                    .unwrap_err()
                    .contains("no address")
            );
        }
    }
}
