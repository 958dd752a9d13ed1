//! `turaco serve`: models over the network.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use turaco::Control;
use turaco::address::Hosts;
use turaco::engine::{Catalog, Engine, EngineOptions, QueueLimits};
use turaco::tts::VoiceStore;
use turaco_server::{App, Config, Listener, Listeners, LogLevel, Server, Tls, Traces};

use super::announce::Announcement;
use super::{Context, bench_voice};
use crate::args::{PortOrSocket, SPEECH_MODEL, ServeArgs, socket_path};
use crate::engine;
use crate::env;
use crate::exit::{Exit, Failure, Outcome};
use crate::printer::{Level, Printer};

/// Serve until Ctrl-C or a signal to end.
pub fn run(args: &ServeArgs, context: &Context) -> Outcome {
    let catalog = catalog(args, context)?;
    let mut options = EngineOptions::default();
    options.load = engine::load_options(&context.global);
    options.keep_alive = args.keep_alive.0;
    options.max_loaded = args.max_loaded;
    options.queue = QueueLimits {
        waiting: args.max_queue,
        ..QueueLimits::default()
    };
    let engine = Engine::new(catalog, options);
    let tls = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => {
            Some(Tls::from_files(certificate, key).map_err(unusable)?)
        }
        _ => None,
    };
    let app = App::new(engine, config(args, context)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::usage("cannot start the server").caused_by(&error))?;
    runtime.block_on(async {
        let listeners = listen(args, tls, &context.printer).await?;
        let announced = match args.zeroconf {
            true => Some(Announcement::of(&listeners)?),
            false => None,
        };
        let server = Server::new(app, args.preload.clone());
        server.run(listeners, ended(context.control.clone())).await;
        drop(announced);
        Ok::<_, Failure>(())
    })?;
    // Threads that still compute for clients that are gone end with the program.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(Exit::Success)
}

/// The models that were named, downloaded if they are not here.
fn catalog(args: &ServeArgs, context: &Context) -> Result<Catalog, Failure> {
    let mut catalog = Catalog::new(engine::cache(&context.global)?);
    let model = context.global.recogniser();
    match engine::find(model, context) {
        Ok(path) => catalog.add(model, path),
        // Nobody asked for this one.
        Err(failure) if context.global.model.is_none() => {
            context.printer.warning(&failure.to_string());
        }
        Err(failure) => return Err(failure),
    }
    for name in &args.preload {
        catalog.add(name, engine::find(name, context)?);
    }
    // Gigabytes that may never be needed.
    match engine::find_here(&args.tts_model, context) {
        Ok(path) => catalog.add(&args.tts_model, path),
        // Nobody asked for the usual one.
        Err(_) if args.tts_model == SPEECH_MODEL => {}
        Err(failure) => {
            let warning = format!("nothing can be said with --tts-model: {failure}");
            context.printer.warning(&warning);
        }
    }
    Ok(catalog)
}

fn config(args: &ServeArgs, context: &Context) -> Result<Config, Failure> {
    let printer = Arc::clone(&context.printer);
    let mut config = Config::default();
    config.model = context.global.recogniser().to_owned();
    config.tts_model.clone_from(&args.tts_model);
    config.api_keys.clone_from(&args.api_key);
    config.cors.clone_from(&args.cors);
    config.max_upload = args.max_upload;
    config.max_queue = args.max_queue;
    config.max_sessions = args.max_sessions;
    config.session_timeout = args.session_timeout;
    config.max_buffer = args.max_buffer.0;
    // What cannot be asked is said now, not in the first conversation.
    drop(bench_voice::endpoint(&args.endpoint)?);
    config.llm = bench_voice::endpoint_options(&args.endpoint);
    config.max_text = args.max_text;
    config.vad = args.vad;
    config.context_tokens = args.memory.context_tokens;
    config.grace = args.grace;
    config.request_timeout = Some(args.request_timeout).filter(|time| !time.is_zero());
    config.allow_model_management = args.allow_model_management;
    config.offline = context.global.offline;
    config.ui = !args.no_ui;
    config.metrics = args.metrics_port.is_none();
    config.voices = VoiceStore::from_env().ok();
    config.log = Arc::new(move |level, line| match level {
        LogLevel::Error | LogLevel::Warning => printer.message(Level::Warning, line),
        LogLevel::Info => printer.message(Level::Normal, line),
    });
    config.fetch_from = fetch_from(&args.allow_url_input);
    if let Some(url) = &args.otlp_endpoint {
        let printer = Arc::clone(&context.printer);
        let complain = move |line: &str| printer.warning(line);
        let service = std::env::var(env::OTEL_SERVICE_NAME);
        let service = service.ok().filter(|name| !name.is_empty());
        let service = service.as_deref().unwrap_or("turaco");
        let headers = std::env::var(env::OTEL_EXPORTER_OTLP_HEADERS).unwrap_or_default();
        let traces = Traces::to(url, named_values(&headers), service, complain);
        config.traces = Some(traces.map_err(unusable)?);
    }
    Ok(config)
}

/// Hosts by name; `*` = all.
fn fetch_from(hosts: &[String]) -> Option<Hosts> {
    match hosts {
        [] => None,
        hosts if hosts.iter().any(|host| host == "*") => Some(Hosts::Any),
        hosts => Some(Hosts::Only(hosts.to_vec())),
    }
}

/// `name=value,name=value`, as OpenTelemetry writes headers.
fn named_values(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

/// An option that the server cannot start with.
fn unusable(error: turaco::Error) -> Failure {
    Failure::usage("cannot start the server").caused_by(&error)
}

async fn listen(
    args: &ServeArgs,
    tls: Option<Tls>,
    printer: &Printer,
) -> Result<Listeners, Failure> {
    // Beside a socket in the file system, ports are for this machine too.
    let host = match socket_path(&args.host) {
        Some(_) => LOOPBACK,
        None => &args.host,
    };
    let http = match socket_path(&args.host) {
        Some(path) => bind_socket(path)?,
        None => bind(host, args.port).await?,
    };
    let metrics = match args.metrics_port {
        Some(port) => Some(bind(host, port).await?),
        None => None,
    };
    let wyoming = match &args.wyoming_port {
        Some(PortOrSocket::Port(port)) => Some(bind(host, *port).await?),
        Some(PortOrSocket::Socket(path)) => Some(bind_socket(path)?),
        None => None,
    };
    let scheme = if tls.is_some() { "https" } else { "http" };
    match http.local_addr() {
        Some(address) => {
            printer.note(&format!("listening on {scheme}://{address}"));
            if !address.ip().is_loopback() && args.api_key.is_empty() {
                printer.warning(
                    "anybody who reaches this address may use the server; --api-key KEY lets in only who knows it",
                );
            }
        }
        None => printer.note(&format!("listening on {}", args.host)),
    }
    if let Some(address) = metrics.as_ref().and_then(Listener::local_addr) {
        printer.note(&format!("counters on http://{address}/metrics"));
    }
    if let Some(listener) = &wyoming {
        let place = match (listener.local_addr(), &args.wyoming_port) {
            (None, Some(PortOrSocket::Socket(path))) => format!("unix://{}", path.display()),
            (address, _) => address.map_or_else(String::new, |address| format!("tcp://{address}")),
        };
        printer.note(&format!("wyoming on {place}"));
    }
    Ok(Listeners {
        http,
        tls,
        wyoming,
        metrics,
    })
}

/// Reached by programs of this machine.
const LOOPBACK: &str = "127.0.0.1";

fn bind_socket(path: &Path) -> Result<Listener, Failure> {
    Listener::unix(path).map_err(|error| {
        Failure::usage("cannot listen on this socket")
            .at(path)
            .caused_by(&error)
    })
}

async fn bind(host: &str, port: u16) -> Result<Listener, Failure> {
    let failed = |error: &io::Error| {
        Failure::usage(format!("cannot listen on {host} port {port}"))
            .caused_by(error)
            .hint("--port N takes another port")
    };
    let host = host.trim_matches(['[', ']']);
    // Names are looked up here, as the runtime has no use for them otherwise.
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![(address, port).into()],
        Err(_) => (host, port)
            .to_socket_addrs()
            .map_err(|error| failed(&error))?
            .collect(),
    };
    let listener = TcpListener::bind(&addresses[..])
        .await
        .map_err(|error| failed(&error))?;
    Ok(listener.into())
}

/// Resolves when the user ends the program.
async fn ended(control: Control) {
    while !control.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
