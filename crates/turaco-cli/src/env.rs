//! Environment variables, declared once: names for the code, meanings for `turaco help environment`.

/// One variable (or a family of them) and what it does.
pub struct Variable {
    /// Name as the user writes it.
    pub name: &'static str,
    /// What it sets, in one line.
    pub meaning: &'static str,
}

/// Variables that belong together.
pub struct Group {
    /// Heading.
    pub title: &'static str,
    /// The variables in the order to show them.
    pub variables: &'static [Variable],
}

/// Default of `--tts-model`.
pub const TURACO_TTS_MODEL: &str = "TURACO_TTS_MODEL";
/// Default of `--llm-url`.
pub const TURACO_LLM_URL: &str = "TURACO_LLM_URL";
/// Default of `--llm-model`.
pub const TURACO_LLM_MODEL: &str = "TURACO_LLM_MODEL";
/// Default of `--llm-key`.
pub const TURACO_LLM_KEY: &str = "TURACO_LLM_KEY";
/// Default of `--model`.
pub const TURACO_MODEL: &str = "TURACO_MODEL";
/// Default of `--device`.
pub const TURACO_DEVICE: &str = "TURACO_DEVICE";
/// Default of `--threads`.
pub const TURACO_THREADS: &str = "TURACO_THREADS";
/// Default of `--compute-type`.
pub const TURACO_COMPUTE_TYPE: &str = "TURACO_COMPUTE_TYPE";
/// Default of `--offline`.
pub const TURACO_OFFLINE: &str = "TURACO_OFFLINE";
/// Default of `serve --host`.
pub const TURACO_HOST: &str = "TURACO_HOST";
/// Default of `serve --port`.
pub const TURACO_PORT: &str = "TURACO_PORT";
/// Default of `serve --wyoming-port`.
pub const TURACO_WYOMING_PORT: &str = "TURACO_WYOMING_PORT";
/// Default of `serve --metrics-port`.
pub const TURACO_METRICS_PORT: &str = "TURACO_METRICS_PORT";
/// Default of `serve --api-key`.
pub const TURACO_API_KEY: &str = "TURACO_API_KEY";
/// Default of `serve --cors`.
pub const TURACO_CORS: &str = "TURACO_CORS";
/// Default of `serve --zeroconf`.
pub const TURACO_ZEROCONF: &str = "TURACO_ZEROCONF";
/// Default of `serve --tls-cert`.
pub const TURACO_TLS_CERT: &str = "TURACO_TLS_CERT";
/// Default of `serve --tls-key`.
pub const TURACO_TLS_KEY: &str = "TURACO_TLS_KEY";
/// Default of `serve --allow-url-input`.
pub const TURACO_ALLOW_URL_INPUT: &str = "TURACO_ALLOW_URL_INPUT";
/// Default of `serve --otlp-endpoint`, by OpenTelemetry's name.
pub const OTEL_EXPORTER_OTLP_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Headers of reports, by OpenTelemetry's name.
pub const OTEL_EXPORTER_OTLP_HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
/// What the server is called in traces, by OpenTelemetry's name.
pub const OTEL_SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
/// Default of `serve --allow-model-management`.
pub const TURACO_ALLOW_MODEL_MANAGEMENT: &str = "TURACO_ALLOW_MODEL_MANAGEMENT";
/// Default of `serve --no-ui`.
pub const TURACO_NO_UI: &str = "TURACO_NO_UI";
/// Default of `serve --preload`.
pub const TURACO_PRELOAD: &str = "TURACO_PRELOAD";
/// Default of `serve --keep-alive`.
pub const TURACO_KEEP_ALIVE: &str = "TURACO_KEEP_ALIVE";
/// Default of `serve --max-loaded`.
pub const TURACO_MAX_LOADED: &str = "TURACO_MAX_LOADED";
/// Default of `serve --max-upload`.
pub const TURACO_MAX_UPLOAD: &str = "TURACO_MAX_UPLOAD";
/// Default of `serve --max-queue`.
pub const TURACO_MAX_QUEUE: &str = "TURACO_MAX_QUEUE";
/// Default of `serve --max-sessions`.
pub const TURACO_MAX_SESSIONS: &str = "TURACO_MAX_SESSIONS";
/// Default of `serve --session-timeout`.
pub const TURACO_SESSION_TIMEOUT: &str = "TURACO_SESSION_TIMEOUT";
/// Default of `serve --max-buffer`.
pub const TURACO_MAX_BUFFER: &str = "TURACO_MAX_BUFFER";
/// Default of `serve --max-text`.
pub const TURACO_MAX_TEXT: &str = "TURACO_MAX_TEXT";
/// Default of `serve --vad`.
pub const TURACO_VAD: &str = "TURACO_VAD";
/// Default of `serve --context-tokens` and `chat --context-tokens`.
pub const TURACO_CONTEXT_TOKENS: &str = "TURACO_CONTEXT_TOKENS";
/// Default of `serve --grace`.
pub const TURACO_GRACE: &str = "TURACO_GRACE";
/// Default of `serve --request-timeout`.
pub const TURACO_REQUEST_TIMEOUT: &str = "TURACO_REQUEST_TIMEOUT";
/// Folders with models.
pub const TURACO_MODEL_PATH: &str = "TURACO_MODEL_PATH";
/// Log filter.
pub const TURACO_LOG: &str = "TURACO_LOG";
/// Log filter of Rust programs, used when [`TURACO_LOG`] is not set.
pub const RUST_LOG: &str = "RUST_LOG";
/// No colours.
pub const NO_COLOR: &str = "NO_COLOR";
/// Colours even when piped.
pub const CLICOLOR_FORCE: &str = "CLICOLOR_FORCE";
/// `dumb` means neither colours nor progress bars.
pub const TERM: &str = "TERM";
/// Where the config file is looked for.
pub const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// Offline mode of huggingface_hub.
pub const HF_HUB_OFFLINE: &str = "HF_HUB_OFFLINE";

/// Everything that Turaco reads from the environment.
pub const GROUPS: &[Group] = &[
    Group {
        title: "Defaults of options",
        variables: &[
            Variable {
                name: TURACO_MODEL,
                meaning: "default of --model",
            },
            Variable {
                name: TURACO_DEVICE,
                meaning: "default of --device",
            },
            Variable {
                name: TURACO_THREADS,
                meaning: "default of --threads",
            },
            Variable {
                name: TURACO_COMPUTE_TYPE,
                meaning: "default of --compute-type",
            },
            Variable {
                name: TURACO_OFFLINE,
                meaning: "1 = as if --offline were given",
            },
        ],
    },
    Group {
        title: "Defaults of options of `turaco serve`",
        variables: &[
            Variable {
                name: TURACO_HOST,
                meaning: "default of --host",
            },
            Variable {
                name: TURACO_PORT,
                meaning: "default of --port",
            },
            Variable {
                name: TURACO_WYOMING_PORT,
                meaning: "default of --wyoming-port",
            },
            Variable {
                name: TURACO_METRICS_PORT,
                meaning: "default of --metrics-port",
            },
            Variable {
                name: TURACO_API_KEY,
                meaning: "default of --api-key",
            },
            Variable {
                name: TURACO_CORS,
                meaning: "default of --cors",
            },
            Variable {
                name: TURACO_ALLOW_MODEL_MANAGEMENT,
                meaning: "default of --allow-model-management",
            },
            Variable {
                name: TURACO_ALLOW_URL_INPUT,
                meaning: "default of --allow-url-input: hosts, or * for all",
            },
            Variable {
                name: TURACO_TLS_CERT,
                meaning: "default of --tls-cert",
            },
            Variable {
                name: TURACO_TLS_KEY,
                meaning: "default of --tls-key",
            },
            Variable {
                name: TURACO_ZEROCONF,
                meaning: "default of --zeroconf",
            },
            Variable {
                name: OTEL_EXPORTER_OTLP_ENDPOINT,
                meaning: "default of --otlp-endpoint",
            },
            Variable {
                name: OTEL_EXPORTER_OTLP_HEADERS,
                meaning: "headers for the collector of traces: name=value,name=value",
            },
            Variable {
                name: OTEL_SERVICE_NAME,
                meaning: "what the server is called in traces (turaco)",
            },
            Variable {
                name: TURACO_NO_UI,
                meaning: "default of --no-ui",
            },
            Variable {
                name: TURACO_TTS_MODEL,
                meaning: "default of --tts-model",
            },
            Variable {
                name: TURACO_PRELOAD,
                meaning: "default of --preload",
            },
            Variable {
                name: TURACO_KEEP_ALIVE,
                meaning: "default of --keep-alive",
            },
            Variable {
                name: TURACO_MAX_LOADED,
                meaning: "default of --max-loaded",
            },
            Variable {
                name: TURACO_MAX_UPLOAD,
                meaning: "default of --max-upload",
            },
            Variable {
                name: TURACO_MAX_QUEUE,
                meaning: "default of --max-queue",
            },
            Variable {
                name: TURACO_MAX_SESSIONS,
                meaning: "default of --max-sessions",
            },
            Variable {
                name: TURACO_SESSION_TIMEOUT,
                meaning: "default of --session-timeout",
            },
            Variable {
                name: TURACO_MAX_BUFFER,
                meaning: "default of --max-buffer",
            },
            Variable {
                name: TURACO_MAX_TEXT,
                meaning: "default of --max-text",
            },
            Variable {
                name: TURACO_VAD,
                meaning: "default of serve --vad",
            },
            Variable {
                name: TURACO_CONTEXT_TOKENS,
                meaning: "default of --context-tokens",
            },
            Variable {
                name: TURACO_GRACE,
                meaning: "default of --grace",
            },
            Variable {
                name: TURACO_REQUEST_TIMEOUT,
                meaning: "default of --request-timeout",
            },
        ],
    },
    Group {
        title: "Models and downloads",
        variables: &[
            Variable {
                name: TURACO_MODEL_PATH,
                meaning: "folders that are searched for models, separated as in PATH; never written to",
            },
            Variable {
                name: "HF_HOME",
                meaning: "home of Hugging Face files; its hub/ is the model cache",
            },
            Variable {
                name: "HF_HUB_CACHE",
                meaning: "the model cache itself; wins over HF_HOME",
            },
            Variable {
                name: "XDG_CACHE_HOME",
                meaning: "parent of huggingface/hub when neither of them is set",
            },
            Variable {
                name: "HF_ENDPOINT",
                meaning: "address of the hub or a mirror",
            },
            Variable {
                name: "HF_TOKEN",
                meaning: "access token; sent only to the host of the endpoint",
            },
            Variable {
                name: "HF_TOKEN_PATH",
                meaning: "file with the access token",
            },
            Variable {
                name: HF_HUB_OFFLINE,
                meaning: "1 = never use the network",
            },
            Variable {
                name: "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY",
                meaning: "proxies, as in curl",
            },
            Variable {
                name: "SSL_CERT_FILE, SSL_CERT_DIR",
                meaning: "certificate authorities instead of the system's",
            },
        ],
    },
    Group {
        title: "Voices",
        variables: &[
            Variable {
                name: "TURACO_VOICES",
                meaning: "folder of saved voices",
            },
            Variable {
                name: "XDG_DATA_HOME",
                meaning: "parent of turaco/voices when that is not set [~/.local/share]",
            },
        ],
    },
    Group {
        title: "Conversations",
        variables: &[
            Variable {
                name: TURACO_LLM_URL,
                meaning: "default of --llm-url",
            },
            Variable {
                name: TURACO_LLM_MODEL,
                meaning: "default of --llm-model",
            },
            Variable {
                name: TURACO_LLM_KEY,
                meaning: "default of --llm-key",
            },
        ],
    },
    Group {
        title: "Graphics processors",
        variables: &[
            Variable {
                name: "TURACO_GPU_AUTO",
                meaning: "1 = --device auto takes any graphics processor, not only one with memory of its own",
            },
            Variable {
                name: "TURACO_GPU_PLAIN",
                meaning: "1 = no subgroups, 16-bit numbers or cooperative matrices; matrices = just not the last",
            },
            Variable {
                name: "TURACO_GPU_FAULT",
                meaning: "for tests, a failure on purpose: lost:N, memory:N, buffers:N, patience:N or matrices:N",
            },
        ],
    },
    Group {
        title: "Terminal and logs",
        variables: &[
            Variable {
                name: TURACO_LOG,
                meaning: "off, error, warn, info, debug or trace: what is written to stderr",
            },
            Variable {
                name: RUST_LOG,
                meaning: "the same, when TURACO_LOG is not set",
            },
            Variable {
                name: NO_COLOR,
                meaning: "set to anything: no colours",
            },
            Variable {
                name: CLICOLOR_FORCE,
                meaning: "1 = colours even when stderr is not a terminal",
            },
            Variable {
                name: TERM,
                meaning: "dumb = no colours and no progress bar",
            },
            Variable {
                name: XDG_CONFIG_HOME,
                meaning: "parent of turaco/config.toml (default: ~/.config)",
            },
        ],
    },
];

/// Text of `turaco help environment`.
pub fn help() -> String {
    let mut text = String::from(
        "Environment variables\n\nThe command line wins over the environment, the environment over the config file\n\
         (--config FILE, else $XDG_CONFIG_HOME/turaco/config.toml), and that over the built-in\ndefaults. \
         A variable that is set to nothing counts as not set.\n",
    );
    for group in GROUPS {
        text.push_str(&format!("\n{}:\n", group.title));
        for variable in group.variables {
            text.push_str(&format!(
                "  {}\n          {}\n",
                variable.name, variable.meaning
            ));
        }
    }
    text
}

/// The value of a variable, if it is set to something.
pub fn value(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_names_every_variable_once() {
        let text = help();
        for variable in GROUPS.iter().flat_map(|group| group.variables) {
            let line = format!("  {}\n", variable.name);
            assert_eq!(text.matches(&line).count(), 1, "{}", variable.name);
        }
    }
}
