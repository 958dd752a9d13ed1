//! `turaco doctor`: what there is to know about this machine when something does not work.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use turaco::cache::{CachedModel, Lookup};
use turaco::diagnostics::{
    Check, GraphicsTest, Machine, compile_ahead, graphics_self_test, self_test,
};

use super::Context;
use crate::args::DoctorArgs;
use crate::engine;
use crate::env;
use crate::exit::{Exit, Failure, Outcome};
use crate::progress::size;

/// Look at this machine. A failed self test is a device that cannot be used.
pub fn run(args: &DoctorArgs, context: &Context) -> Outcome {
    if let Some(capability) = args.compile_kernels {
        return compile_kernels(capability, context);
    }
    let facts = Facts::collect(context)?;
    let text = if args.json {
        format!("{}\n", facts.json())
    } else {
        facts.text()
    };
    context.printer.result(text.as_bytes())?;
    if facts.checks.iter().all(|check| check.passed) {
        Ok(Exit::Success)
    } else {
        Ok(Exit::Device)
    }
}

/// Compile kernels ahead of their use.
fn compile_kernels(capability: u32, context: &Context) -> Outcome {
    let (count, folder) = compile_ahead(capability)?;
    let text = format!(
        "{count} files of kernels for {}.{} in {}\n",
        capability / 10,
        capability % 10,
        folder.display()
    );
    context.printer.result(text.as_bytes())?;
    Ok(Exit::Success)
}

struct Facts {
    machine: Machine,
    threads: usize,
    cache: PathBuf,
    cached: Vec<CachedModel>,
    search_path: Option<String>,
    model: String,
    /// Where the model is, or why it is not here.
    found: Result<PathBuf, String>,
    config: Option<PathBuf>,
    ffmpeg: Option<PathBuf>,
    variables: Vec<(&'static str, String)>,
    checks: Vec<Check>,
    graphics: Vec<GraphicsTest>,
    test_seconds: f64,
}

impl Facts {
    fn collect(context: &Context) -> Result<Self, Failure> {
        let global = &context.global;
        let machine = Machine::detect();
        let cache = engine::cache(&context.global)?;
        let found = match cache.find(global.recogniser()) {
            Ok(Lookup::Found(found)) => Ok(found.path),
            Ok(Lookup::Missing(missing)) => Err(missing.into_error(cache.root()).to_string()),
            Err(error) => Err(error.to_string()),
        };
        let started = Instant::now();
        let mut checks = self_test();
        let graphics = graphics_self_test();
        checks.extend(graphics.iter().map(|test| test.check.clone()));
        Ok(Self {
            threads: match global.threads {
                0 => machine.physical_cores,
                threads => threads,
            },
            machine,
            cached: cache.list().unwrap_or_default(),
            cache: cache.root().to_path_buf(),
            search_path: env::value(env::TURACO_MODEL_PATH),
            model: global.recogniser().to_owned(),
            found,
            config: global.config.clone(),
            ffmpeg: in_path("ffmpeg"),
            variables: variables(),
            checks,
            graphics,
            test_seconds: started.elapsed().as_secs_f64(),
        })
    }

    fn cached_bytes(&self) -> u64 {
        self.cached.iter().map(|model| model.size).sum()
    }

    fn json(&self) -> serde_json::Value {
        let checks: Vec<_> = self
            .checks
            .iter()
            .map(
                |check| json!({"name": check.name, "passed": check.passed, "detail": check.detail}),
            )
            .collect();
        let variables: serde_json::Map<_, _> = self
            .variables
            .iter()
            .map(|(name, value)| ((*name).to_string(), value.as_str().into()))
            .collect();
        let graphics_kernels: serde_json::Map<_, _> = self
            .graphics
            .iter()
            .map(|test| (test.adapter.clone(), test.kernels.iter().cloned().collect()))
            .collect();
        let graphics_shaders: serde_json::Map<_, _> = self
            .graphics
            .iter()
            .filter_map(|test| Some((test.adapter.clone(), test.kept.clone()?.into())))
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "os": self.machine.os,
            "arch": self.machine.arch,
            "cpu_features": self.machine.cpu_features,
            "kernels": self.machine.kernels,
            "chosen_kernels": self.machine.chosen_kernels,
            "physical_cores": self.machine.physical_cores,
            "threads": self.threads,
            "device": self.machine.device,
            "graphics": self.machine.graphics,
            "graphics_kernels": graphics_kernels,
            "graphics_shaders": graphics_shaders,
            "cache": self.cache.to_string_lossy(),
            "cached_models": self.cached.len(),
            "cached_bytes": self.cached_bytes(),
            "model_path": self.search_path,
            "model": self.model,
            "model_file": self.found.as_ref().ok().map(|path| path.to_string_lossy()),
            "model_missing": self.found.as_ref().err(),
            "config": self.config.as_ref().map(|path| path.to_string_lossy()),
            "ffmpeg": self.ffmpeg.as_ref().map(|path| path.to_string_lossy()),
            "environment": variables,
            "self_test": checks,
            "passed": self.checks.iter().all(|check| check.passed),
        })
    }

    fn text(&self) -> String {
        let mut lines: Vec<(String, String)> = Vec::new();
        let mut line = |name: &str, value: String| lines.push((name.into(), value));
        line("turaco", env!("CARGO_PKG_VERSION").into());
        line(
            "system",
            format!("{} {}", self.machine.os, self.machine.arch),
        );
        line("cpu features", self.machine.cpu_features.join(" "));
        line(
            "kernels",
            format!(
                "{} (of {})",
                self.machine.chosen_kernels,
                self.machine.kernels.join(", ")
            ),
        );
        line("device", self.machine.device.clone());
        for graphics in &self.machine.graphics {
            line("graphics", graphics.clone());
        }
        for test in &self.graphics {
            for (operation, kernel) in &test.kernels {
                line("graphics kernels", format!("{operation}: {kernel}"));
            }
            if let Some(kept) = &test.kept {
                line("graphics shaders", kept.clone());
            }
        }
        line(
            "threads",
            format!(
                "{} ({} physical cores)",
                self.threads, self.machine.physical_cores
            ),
        );
        line(
            "model cache",
            format!(
                "{} ({} models, {})",
                self.cache.display(),
                self.cached.len(),
                size(self.cached_bytes())
            ),
        );
        if let Some(path) = &self.search_path {
            line("model path", path.clone());
        }
        line(
            "model",
            match &self.found {
                Ok(path) => format!("{} at {}", self.model, path.display()),
                Err(why) => why.clone(),
            },
        );
        if let Some(config) = &self.config {
            line("config file", config.display().to_string());
        }
        line(
            "ffmpeg",
            match &self.ffmpeg {
                Some(path) => path.display().to_string(),
                None => {
                    "not found (needed only for sound that the built-in decoder cannot read)".into()
                }
            },
        );
        for (name, value) in &self.variables {
            line(name, value.clone());
        }
        for check in &self.checks {
            let outcome = if check.passed { "ok" } else { "FAILED" };
            line(check.name, format!("{outcome} ({})", check.detail));
        }
        line("self test", format!("{:.2} s", self.test_seconds));
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        lines
            .iter()
            .map(|(name, value)| format!("{name:<width$}  {value}\n"))
            .collect()
    }
}

/// The variables that are set. Secrets are only said to be set.
fn variables() -> Vec<(&'static str, String)> {
    env::GROUPS
        .iter()
        .flat_map(|group| group.variables)
        .flat_map(|variable| variable.name.split(", "))
        .filter_map(|name| {
            let value = env::value(name)?;
            let shown = if is_secret(name, &value) {
                "(set)".into()
            } else {
                value
            };
            Some((name, shown))
        })
        .collect()
}

/// Whether somebody could use what a variable holds.
fn is_secret(name: &str, value: &str) -> bool {
    let holds_one = ["_KEY", "_TOKEN", "_HEADERS"]
        .iter()
        .any(|end| name.ends_with(end));
    // That of a certificate is a file's name.
    (holds_one && name != env::TURACO_TLS_KEY) || value.split('/').any(|part| part.contains('@'))
}

/// A program on `PATH`.
fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
        .find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_printed() {
        for name in ["HF_TOKEN", env::TURACO_API_KEY, env::TURACO_LLM_KEY] {
            assert!(is_secret(name, "x"), "{name}");
        }
        assert!(is_secret("HTTPS_PROXY", "http://me:secret@proxy:80"));
        assert!(!is_secret("HTTPS_PROXY", "http://proxy:80"));
        assert!(!is_secret(env::TURACO_MODEL, "tiny"));
    }
}
