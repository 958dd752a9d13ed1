//! Encrypted connections, with a certificate that may be renewed while the server runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use turaco::{Error, Result};

/// Between two looks at whether the files are new ones.
const LOOK: Duration = Duration::from_secs(60);

/// A certificate and its key, in PEM files.
#[derive(Clone)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: Arc<Mutex<Current>>,
}

struct Current {
    acceptor: TlsAcceptor,
    /// When the files were written.
    written: [Option<SystemTime>; 2],
    looked: Instant,
}

impl Tls {
    /// Read the certificate (with those that vouch for it behind it) and its key.
    ///
    /// # Errors
    /// Files that cannot be read, hold something else, or do not belong together.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self> {
        let current = Current {
            written: [certificate, key].map(written),
            acceptor: acceptor(certificate, key)?,
            looked: Instant::now(),
        };
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: Arc::new(Mutex::new(current)),
        })
    }

    /// What encrypts the next connection, and what kept newer files from being used.
    pub(crate) fn acceptor(&self) -> (TlsAcceptor, Option<Error>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut problem = None;
        if current.looked.elapsed() >= LOOK {
            current.looked = Instant::now();
            let written = [&self.certificate, &self.key].map(|path| written(path));
            if written != current.written {
                current.written = written;
                match acceptor(&self.certificate, &self.key) {
                    Ok(acceptor) => current.acceptor = acceptor,
                    // They may be in the middle of being replaced; the old ones serve until then.
                    Err(error) => {
                        current.written = [None, None];
                        problem = Some(error);
                    }
                }
            }
        }
        (current.acceptor.clone(), problem)
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

fn written(path: &Path) -> Option<SystemTime> {
    path.metadata().ok()?.modified().ok()
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })
    };
    let wrong = |option, message: String| Error::InvalidOption { option, message };
    let chain: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&read(certificate)?).collect();
    let chain = chain
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or_else(|| {
            let message = format!("no certificate in PEM is in it [{}]", certificate.display());
            wrong("tls_cert", message)
        })?;
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| {
        let message = format!("no private key in PEM is in it [{}]", key.display());
        wrong("tls_key", message)
    })?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, private)
        });
    let mut config = config.map_err(|error| {
        let files = format!("{}, {}", certificate.display(), key.display());
        wrong(
            "tls_cert",
            format!("certificate and key cannot be used: {error} [{files}]"),
        )
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
