//! Accepting connections, with limits on slow ones, and an end that lets work finish.

use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::App;
use crate::config::LogLevel;
use crate::listener::Listener;
use crate::tls::Tls;

/// How long a client may take for the head of a request, or to agree on a key.
const HEAD: Duration = Duration::from_secs(30);

/// What clients have beyond the grace to read that the server ends.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// Answer connections until `app` ends, then let those that are open finish for as long as the grace lasts. With `tls` they are
/// encrypted.
pub async fn serve(app: &App, listener: Listener, router: Router, tls: Option<&Tls>) {
    let mut ending = app.ending();
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            _ = ended(&mut ending) => break,
            accepted = listener.accept() => match accepted {
                Ok(stream) => {
                    let service = TowerToHyperService::new(router.clone());
                    let ending = app.ending();
                    match tls {
                        None => drop(open.spawn(connection(stream, service, ending))),
                        Some(tls) => {
                            let (acceptor, problem) = tls.acceptor();
                            if let Some(error) = problem {
                                app.log(LogLevel::Warning, &error.to_string());
                            }
                            open.spawn(async move {
                                let agreed = tokio::time::timeout(HEAD, acceptor.accept(stream));
                                // Who does not agree on a key, or speaks without one, is not answered.
                                if let Ok(Ok(stream)) = agreed.await {
                                    connection(stream, service, ending).await;
                                }
                            });
                        }
                    }
                }
                Err(error) => pause(&error).await,
            },
            Some(_) = open.join_next() => {}
        }
    }
    drop(listener);
    let finish = async {
        while open.join_next().await.is_some() {}
        // WebSockets are on their own by now.
        app.sessions_closed().await;
    };
    // What is still open then is dropped, and its work cancelled.
    let _ = tokio::time::timeout(app.config().grace + FAREWELL, finish).await;
}

/// Resolves when the server ends.
pub async fn ended(ending: &mut watch::Receiver<bool>) {
    // The sender lives as long as the server.
    let _ = ending.wait_for(|ending| *ending).await;
}

/// Out of file descriptors: not at full speed again.
pub async fn pause(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if !matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    ) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: TowerToHyperService<Router>,
    mut ending: watch::Receiver<bool>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    // A connection that breaks is the client's business.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = ended(&mut ending) => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
