//! One HTTP GET at a time: proxies, certificates, redirects, and a token that goes to one host only.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::{Error, Result};

/// Redirects that are followed before a server is taken to lead in circles.
const MAX_REDIRECTS: usize = 10;

/// How long an endpoint may think.
const ANSWER_PATIENCE: Duration = Duration::from_secs(600);

/// Why there is no response.
#[derive(Debug)]
pub enum Failure {
    /// The host cannot be reached: name, route, proxy or certificate.
    Unreachable(String),
    /// There was a connection, and it broke.
    Broken(String),
    /// The server answered something that no retry will mend.
    Refused(String),
}

/// What the hub says about a file on the way to its content.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// `X-Repo-Commit`.
    pub commit: Option<String>,
    /// `X-Linked-Etag`, else `ETag`, without quotes.
    pub hash: Option<String>,
    /// `X-Linked-Size`.
    pub size: Option<u64>,
}

/// The part of a file that is still wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub from: u64,
    /// ETag that the server gave for the bytes before it, if the same server gave them.
    pub etag: Option<String>,
}

/// A final response and how it was reached.
pub struct Reply {
    /// Status, headers, body.
    pub response: Response<ureq::Body>,
    /// The last address, without its query (which may hold a signature).
    pub url: String,
    /// From the responses of the endpoint's host.
    pub facts: FileFacts,
    /// The range that the last request asked for.
    pub range: Option<Range>,
}

impl Reply {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(self.response.headers(), name)
    }
}

/// Makes requests.
pub struct Client {
    direct: Agent,
    http_proxy: Option<Agent>,
    https_proxy: Option<Agent>,
    no_proxy: Vec<String>,
    /// Scheme, host and port that the token may be sent to.
    endpoint: Origin,
    token: Option<String>,
    /// The only hosts that are asked, if there is a list.
    hosts: Option<Vec<String>>,
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Client {
    /// A client for the hub at `endpoint`; proxies and certificates as the environment `variable` says.
    pub fn new(
        endpoint: &str,
        token: Option<String>,
        variable: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self> {
        let bad_endpoint = || Error::InvalidOption {
            option: "HF_ENDPOINT",
            message: format!("`{endpoint}` is no address of the form https://host"),
        };
        let origin = endpoint
            .parse::<Uri>()
            .ok()
            .as_ref()
            .and_then(origin_of)
            .ok_or_else(bad_endpoint)?;
        // An Authorization header cannot carry control characters, and no token has them.
        let token =
            token.filter(|token| !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()));
        let tls = tls_config(variable)?;
        let proxied = |names: [&'static str; 2]| -> Result<Option<Agent>> {
            let Some((name, value)) = names
                .into_iter()
                .find_map(|name| Some((name, text_variable(variable, name)?)))
            else {
                return Ok(None);
            };
            let proxy = ureq::Proxy::new(&value).map_err(|_| Error::InvalidOption {
                option: name,
                message:
                    "it is no proxy address of the form http://host:port or socks5://host:port"
                        .to_owned(),
            })?;
            Ok(Some(agent(Some(proxy), &tls)))
        };
        Ok(Self {
            direct: agent(None, &tls),
            http_proxy: proxied(["HTTP_PROXY", "ALL_PROXY"])?,
            https_proxy: proxied(["HTTPS_PROXY", "ALL_PROXY"])?,
            no_proxy: text_variable(variable, "NO_PROXY")
                .map(|list| {
                    list.split([',', ' '])
                        .map(|host| host.trim().to_ascii_lowercase())
                        .collect()
                })
                .unwrap_or_default(),
            endpoint: origin,
            token,
            hosts: None,
        })
    }

    /// Ask no other hosts than these, wherever redirects lead.
    pub fn only(mut self, hosts: &[String]) -> Self {
        let hosts = hosts.iter().map(|host| host.to_ascii_lowercase());
        self.hosts = Some(hosts.collect());
        self
    }

    /// Whether requests carry a token.
    pub const fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// GET `url`, following redirects. Before each request `range` is asked which part is wanted, given what the hub
    /// has said about the file so far.
    pub fn get(
        &self,
        url: &str,
        range: &dyn Fn(&FileFacts) -> Option<Range>,
    ) -> std::result::Result<Reply, Failure> {
        let mut uri: Uri = url.parse().map_err(|_| {
            Failure::Refused(format!("`{}` is no valid address", without_query(url)))
        })?;
        let mut facts = FileFacts::default();
        for _ in 0..=MAX_REDIRECTS {
            let origin = origin_of(&uri).ok_or_else(|| {
                Failure::Refused("redirected to something other than http(s)".to_owned())
            })?;
            if self.endpoint.scheme == "https" && origin.scheme != "https" {
                return Err(Failure::Refused(format!(
                    "redirected to an unencrypted address at {}",
                    origin.host
                )));
            }
            if let Some(hosts) = &self.hosts
                && !hosts.contains(&origin.host)
            {
                return Err(Failure::Refused(format!(
                    "the host {} may not be asked",
                    origin.host
                )));
            }
            let at_endpoint = origin == self.endpoint;
            let wanted = range(&facts);
            let mut request = self
                .agent_for(&origin)
                .get(&uri)
                .header("Accept-Encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| at_endpoint) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if let Some(wanted) = &wanted {
                request = request.header("Range", format!("bytes={}-", wanted.from));
                if let Some(etag) = &wanted.etag {
                    request = request.header("If-Range", etag);
                }
            }
            let response = request.call().map_err(classify)?;
            if at_endpoint {
                facts.learn(response.headers(), response.status().is_redirection());
            }
            if !response.status().is_redirection() {
                return Ok(Reply {
                    response,
                    url: without_query(&uri.to_string()),
                    facts,
                    range: wanted,
                });
            }
            let location = header(response.headers(), "Location")
                .ok_or_else(|| Failure::Refused("a redirect without a Location".to_owned()))?;
            uri = join(&uri, location).ok_or_else(|| {
                Failure::Refused("a redirect to an address that makes no sense".to_owned())
            })?;
        }
        Err(Failure::Refused(format!(
            "more than {MAX_REDIRECTS} redirects"
        )))
    }

    /// POST JSON to the endpoint with `headers` besides, without following redirects.
    pub fn post_json(
        &self,
        url: &str,
        json: &str,
        headers: &[(String, String)],
    ) -> std::result::Result<Reply, Failure> {
        let uri: Uri = url.parse().map_err(|_| {
            Failure::Refused(format!("`{}` is no valid address", without_query(url)))
        })?;
        let origin = origin_of(&uri)
            .filter(|origin| *origin == self.endpoint)
            .ok_or_else(|| Failure::Refused("an address of another host".to_owned()))?;
        let mut request = self
            .agent_for(&origin)
            .post(&uri)
            .header("Content-Type", "application/json")
            .header("Accept-Encoding", "identity");
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // A model may read for long before it answers.
        let request = request
            .config()
            .timeout_recv_response(Some(ANSWER_PATIENCE))
            .timeout_per_read(Some(ANSWER_PATIENCE))
            .build();
        let response = request.send(json).map_err(classify)?;
        Ok(Reply {
            response,
            url: without_query(&uri.to_string()),
            facts: FileFacts::default(),
            range: None,
        })
    }

    /// Break all connections off: whoever waits for something on one of them waits no longer, and nothing can be asked any more.
    pub fn shut_down(&self) {
        let proxied = [&self.http_proxy, &self.https_proxy].into_iter().flatten();
        for agent in proxied.chain([&self.direct]) {
            agent.clone().shutdown();
        }
    }

    fn agent_for(&self, origin: &Origin) -> &Agent {
        let proxied = match origin.scheme.as_str() {
            "https" => self.https_proxy.as_ref(),
            _ => self.http_proxy.as_ref(),
        };
        match proxied {
            Some(agent) if !bypasses_proxy(&self.no_proxy, &origin.host) => agent,
            _ => &self.direct,
        }
    }
}

impl FileFacts {
    fn learn(&mut self, headers: &HeaderMap, redirected: bool) {
        if let Some(commit) = header(headers, "X-Repo-Commit") {
            self.commit = Some(commit.to_owned());
        }
        // A redirect's own ETag describes the redirect; only the linked one describes the file.
        if let Some(etag) = header(headers, "X-Linked-Etag") {
            self.hash = Some(bare_etag(etag).to_owned());
        } else if let (None, false, Some(etag)) = (&self.hash, redirected, header(headers, "ETag"))
        {
            self.hash = Some(bare_etag(etag).to_owned());
        }
        if let Some(size) =
            header(headers, "X-Linked-Size").and_then(|size| size.trim().parse().ok())
        {
            self.size = Some(size);
        }
    }
}

/// An environment variable as text, in upper or lower case; `None` if unset or empty.
pub fn text_variable(variable: &dyn Fn(&str) -> Option<OsString>, name: &str) -> Option<String> {
    [name.to_owned(), name.to_ascii_lowercase()]
        .iter()
        .filter_map(|name| variable(name)?.into_string().ok())
        .map(|value| value.trim().to_owned())
        .find(|value| !value.is_empty())
}

/// An address without its query and fragment.
pub fn without_query(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().to_owned()
}

fn agent(proxy: Option<ureq::Proxy>, tls: &TlsConfig) -> Agent {
    Agent::config_builder()
        .proxy(proxy)
        .tls_config(tls.clone())
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(concat!("turaco/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(Duration::from_secs(10)))
        .timeout_connect(Some(Duration::from_secs(15)))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .timeout_per_read(Some(Duration::from_secs(20)))
        .build()
        .new_agent()
}

/// `SSL_CERT_FILE` and `SSL_CERT_DIR` replace the system's trust store, as they do for curl and OpenSSL.
fn tls_config(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<TlsConfig> {
    let mut files: Vec<PathBuf> = Vec::new();
    let named = variable("SSL_CERT_FILE")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    files.extend(named.clone());
    if let Some(folders) = variable("SSL_CERT_DIR").filter(|_| named.is_none()) {
        for folder in std::env::split_paths(&folders) {
            files.extend(
                std::fs::read_dir(folder)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path()),
            );
        }
    }
    let mut certificates: Vec<Certificate<'static>> = Vec::new();
    for file in files {
        match std::fs::read(&file) {
            Ok(text) => certificates.extend(parse_pem(&text).filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })),
            Err(source) if named.is_some() => {
                return Err(Error::Io {
                    action: "read",
                    path: file,
                    source,
                });
            }
            // A certificate folder may hold dangling links.
            Err(_) => {}
        }
    }
    let roots = if certificates.is_empty() {
        RootCerts::PlatformVerifier
    } else {
        RootCerts::new_with_certs(&certificates)
    };
    Ok(TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(roots)
        .build())
}

fn classify(error: ureq::Error) -> Failure {
    use std::io::ErrorKind as Kind;
    use ureq::Timeout;
    let message = error.to_string();
    match error {
        ureq::Error::Io(source) => match source.kind() {
            Kind::UnexpectedEof
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::NotConnected
            | Kind::TimedOut
            | Kind::WouldBlock
            | Kind::InvalidData => Failure::Broken(message),
            // Refused, no route, and the resolver's errors, which have no kind of their own.
            _ => Failure::Unreachable(message),
        },
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::Tls(_)
        | ureq::Error::Rustls(_) => Failure::Unreachable(message),
        ureq::Error::Timeout(_) | ureq::Error::Protocol(_) => Failure::Broken(message),
        _ => Failure::Refused(message),
    }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn bare_etag(etag: &str) -> &str {
    etag.trim().trim_start_matches("W/").trim_matches('"')
}

fn origin_of(uri: &Uri) -> Option<Origin> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    Some(Origin {
        host: uri.host()?.to_ascii_lowercase(),
        port: uri.port_u16().unwrap_or(default_port),
        scheme,
    })
}

/// The address that `location` means when `base` sent it (RFC 3986, section 5, without dot segments).
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?.trim();
    let has_scheme = location.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
    });
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let joined = if has_scheme {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = base
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    joined.parse().ok()
}

/// curl's rule: `*` is every host; a name is itself and everything below it.
fn bypasses_proxy(no_proxy: &[String], host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    no_proxy.iter().any(|entry| {
        let entry = entry.trim_start_matches("*.").trim_start_matches('.');
        let entry = entry.trim_start_matches('[').trim_end_matches(']');
        entry == "*"
            || (!entry.is_empty()
                && (host == entry
                    || host
                        .strip_suffix(entry)
                        .is_some_and(|rest| rest.ends_with('.'))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined_to_their_base() {
        let base: Uri = "https://hub.example:8443/org/name/resolve/main/f?x=1"
            .parse()
            .unwrap();
        let to = |location: &str| join(&base, location).unwrap().to_string();
        assert_eq!(to("/new/f?a=b"), "https://hub.example:8443/new/f?a=b");
        assert_eq!(to("g"), "https://hub.example:8443/org/name/resolve/main/g");
        assert_eq!(to("//cdn.example/f"), "https://cdn.example/f");
        assert_eq!(to("http://cdn.example/f#part"), "http://cdn.example/f");
        assert!(origin_of(&"ftp://host/f".parse().unwrap()).is_none());
    }

    #[test]
    fn no_proxy_follows_curl() {
        let list: Vec<String> = ["example.com", ".corp", "127.0.0.1", "*.lan"]
            .map(str::to_owned)
            .to_vec();
        for host in [
            "example.com",
            "cdn.example.com",
            "x.corp",
            "127.0.0.1",
            "box.lan",
        ] {
            assert!(bypasses_proxy(&list, host), "{host}");
        }
        for host in ["notexample.com", "example.org", "10.0.0.1"] {
            assert!(!bypasses_proxy(&list, host), "{host}");
        }
        assert!(bypasses_proxy(&["*".to_owned()], "anything"));
        assert!(!bypasses_proxy(&[String::new()], "anything"));
    }

    #[test]
    fn the_linked_hash_wins() {
        let headers = |pairs: &[(&'static str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in pairs {
                map.insert(*name, value.parse().unwrap());
            }
            map
        };
        let mut facts = FileFacts::default();
        facts.learn(&headers(&[("etag", "\"zero\"")]), true);
        assert_eq!(facts.hash, None);
        facts.learn(
            &headers(&[
                ("etag", "\"one\""),
                ("x-linked-etag", "\"two\""),
                ("x-linked-size", "7"),
            ]),
            true,
        );
        assert_eq!(facts.hash.as_deref(), Some("two"));
        facts.learn(&headers(&[("etag", "W/\"three\"")]), false);
        assert_eq!(facts.hash.as_deref(), Some("two"));
        assert_eq!(facts.size, Some(7));
    }

    #[test]
    fn a_strange_endpoint_is_refused() {
        for endpoint in ["", "hub", "ftp://hub", "https://"] {
            assert!(
                Client::new(endpoint, None, &|_| None).is_err(),
                "{endpoint}"
            );
        }
        assert!(Client::new("https://hub.example/sub", None, &|_| None).is_ok());
    }
}
