//! The whole program: ports, preloading, housekeeping, and the end.

use std::path::Path;
use std::time::Duration;

use crate::app::App;
use crate::config::LogLevel;
use crate::listener::Listener;
use crate::routes::{metrics_router, router};
use crate::tls::Tls;
use crate::{connections, wyoming};

/// Between two looks at what nobody uses.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Where the server listens.
#[derive(Debug)]
pub struct Listeners {
    /// HTTP and WebSockets.
    pub http: Listener,
    /// What encrypts HTTP and WebSockets, if anything does; the other ports are for machines that are trusted.
    pub tls: Option<Tls>,
    /// Wyoming, if it is wanted.
    pub wyoming: Option<Listener>,
    /// Counters, where they have a port of their own.
    pub metrics: Option<Listener>,
}

/// A server that has not started yet.
pub struct Server {
    app: App,
}

impl Server {
    /// Serve with `app`, and load `preload` before saying that the server is ready.
    pub fn new(app: App, preload: Vec<String>) -> Self {
        app.set_preload(preload);
        Self { app }
    }

    /// Serve until `shutdown` resolves; then nothing new is accepted, and what is on its way has the grace to finish.
    pub async fn run(self, listeners: Listeners, shutdown: impl Future<Output = ()>) {
        let app = self.app;
        app.set_ready(app.preload().is_empty());
        app.set_local(listeners.http.is_local());
        let open = listeners.wyoming.as_ref().filter(|port| !port.is_local());
        if let (Some(_), false) = (open, app.config().api_keys.is_empty()) {
            let line = "the Wyoming port takes requests from other machines without a key: its protocol knows none";
            app.log(LogLevel::Warning, line);
        }
        let preloading = tokio::task::spawn_blocking({
            let app = app.clone();
            move || preload(&app)
        });
        let housekeeping = tokio::spawn({
            let app = app.clone();
            async move {
                loop {
                    tokio::time::sleep(HOUSEKEEPING).await;
                    let engine = app.engine().clone();
                    // Giving memory back takes a moment.
                    let _ = tokio::task::spawn_blocking(move || engine.unload_idle()).await;
                }
            }
        });
        let tls = listeners.tls.as_ref();
        let http = connections::serve(&app, listeners.http, router(app.clone()), tls);
        let metrics = async {
            if let Some(listener) = listeners.metrics {
                connections::serve(&app, listener, metrics_router(app.clone()), None).await;
            }
        };
        let wyoming = async {
            if let Some(listener) = listeners.wyoming {
                wyoming::serve(&app, listener).await;
            }
        };
        let end = async {
            shutdown.await;
            app.log(LogLevel::Info, "shutting down");
            app.end();
        };
        tokio::join!(http, metrics, wyoming, end);
        housekeeping.abort();
        preloading.abort();
    }
}

fn preload(app: &App) {
    for name in app.preload() {
        match app.engine().load(name, &turaco::Control::new()) {
            Ok(lease) => {
                let facts = app.engine().loaded();
                let facts = facts.iter().find(|facts| facts.id == lease.id());
                let device = facts.map_or("", |facts| facts.device.as_str());
                app.log(LogLevel::Info, &format!("loaded {name} on {device}"));
            }
            Err(error) => {
                app.log(LogLevel::Error, &format!("{name} was not loaded: {error}"));
                // Anybody may ask whether the server is ready: no paths.
                let name = Path::new(name).file_name().unwrap_or_default();
                let (name, code) = (name.to_string_lossy(), error.code());
                app.not_loaded(format!("{name} was not loaded ({code}); the log says why"));
            }
        }
    }
    app.set_ready(true);
}
