//! Where clients come in: a port, or a socket in the file system.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

/// Where clients come in.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(unix::Socket),
}

/// Both directions of a connection.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self(Kind::Tcp(listener))
    }
}

impl Listener {
    /// Listen on a socket at `path`, which is removed when this is dropped. One that a server has left there is replaced. Who may
    /// write to the file may connect.
    ///
    /// # Errors
    /// A path that is taken or cannot be written, and systems that have no such sockets.
    #[cfg(unix)]
    pub fn unix(path: &Path) -> io::Result<Self> {
        unix::Socket::bind(path).map(|socket| Self(Kind::Unix(socket)))
    }

    /// Listen on a socket in the file system.
    ///
    /// # Errors
    /// This system has none.
    #[cfg(not(unix))]
    pub fn unix(_path: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The address of a port; a socket in the file system has none.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            #[cfg(unix)]
            Kind::Unix(_) => None,
        }
    }

    /// Whether only programs of this machine reach it.
    pub(crate) fn is_local(&self) -> bool {
        match &self.0 {
            Kind::Tcp(listener) => listener
                .local_addr()
                .is_ok_and(|address| address.ip().is_loopback()),
            #[cfg(unix)]
            Kind::Unix(_) => true,
        }
    }

    /// The next client.
    pub(crate) async fn accept(&self) -> io::Result<Box<dyn Wire>> {
        match &self.0 {
            Kind::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Small messages leave at once.
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            #[cfg(unix)]
            Kind::Unix(socket) => socket.accept().await,
        }
    }
}

#[cfg(unix)]
mod unix {
    use std::io;
    use std::os::unix::fs::FileTypeExt;
    use std::os::unix::net::UnixStream;
    use std::path::{Path, PathBuf};

    use tokio::net::UnixListener;

    use super::Wire;

    #[derive(Debug)]
    pub struct Socket {
        listener: UnixListener,
        path: PathBuf,
    }

    impl Socket {
        pub fn bind(path: &Path) -> io::Result<Self> {
            let listener = match UnixListener::bind(path) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path) => {
                    std::fs::remove_file(path)?;
                    UnixListener::bind(path)?
                }
                bound => bound?,
            };
            Ok(Self {
                listener,
                path: path.to_owned(),
            })
        }

        pub async fn accept(&self) -> io::Result<Box<dyn Wire>> {
            let (stream, _) = self.listener.accept().await?;
            Ok(Box::new(stream))
        }
    }

    impl Drop for Socket {
        fn drop(&mut self) {
            // Whoever removed it already has done the same.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Whether it is a socket behind which nobody listens any more.
    fn is_left_over(path: &Path) -> bool {
        let facts = path.symlink_metadata();
        facts.is_ok_and(|facts| facts.file_type().is_socket())
            && UnixStream::connect(path)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    }
}
