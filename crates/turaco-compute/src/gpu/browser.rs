//! Every shader as a browser takes it: Chromium compiles them all, where it is installed. Its rules are stricter than naga's in
//! places (barriers under conditions that threads may not share), and it reads the text itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::shader::{Extras, Shader};

const PATIENCE: Duration = Duration::from_secs(240);

const PAGE: &str = r#"<!doctype html><script type="module">
const say = text => fetch("/result", { method: "POST", body: text });
try {
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) throw "no adapter";
  const device = await adapter.requestDevice();
  const shaders = await (await fetch("/shaders")).json();
  const wrong = [];
  for (const [name, code] of shaders) {
    const info = await device.createShaderModule({ code }).getCompilationInfo();
    const error = info.messages.find(message => message.type === "error");
    if (error) wrong.push(`${name}: ${error.message}: ${code.split("\n")[error.lineNum - 1]}`);
  }
  await say(wrong.length ? wrong.join("\n") : `${shaders.length} shaders`);
} catch (error) {
  await say(`unavailable: ${error}`);
}
</script>"#;

/// Ends with the test.
struct Browser(Child, std::path::PathBuf);

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

fn start(address: &str) -> Option<Browser> {
    let profile = std::env::temp_dir().join(format!("turaco-browser-{}", std::process::id()));
    let mut flags = vec![format!("--user-data-dir={}", profile.display())];
    flags.extend(
        [
            "--headless",
            "--no-sandbox",
            "--enable-unsafe-webgpu",
            "--use-webgpu-adapter=swiftshader",
            "--enable-unsafe-swiftshader",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]
        .map(String::from),
    );
    ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find_map(|program| {
            let mut command = Command::new(program);
            command.args(&flags).arg(format!("http://{address}/"));
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.spawn().ok()
        })
        .map(|child| Browser(child, profile))
}

/// Answer a request; the body of one to `/result`.
fn answer(stream: &mut TcpStream, shaders: &str) -> std::io::Result<Option<String>> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let path = request.split(' ').nth(1).unwrap_or("/");
    let (kind, text) = match path {
        "/" => ("text/html", PAGE),
        "/shaders" => ("application/json", shaders),
        _ => ("text/plain", ""),
    };
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    )?;
    Ok((path == "/result").then(|| String::from_utf8_lossy(&body).into_owned()))
}

#[test]
fn every_shader_is_one_that_browsers_take() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let Some(_browser) = start(&address) else {
        eprintln!("SKIPPED: no Chromium");
        return;
    };
    let all: Vec<(String, String)> = Shader::all()
        .into_iter()
        // WebGPU has no cooperative matrices.
        .filter(|shader| shader.cooperative().is_none())
        .map(|shader| (format!("{shader:?}"), shader.source(Extras::default())))
        .collect();
    let shaders = serde_json::to_string(&all).unwrap();
    let started = Instant::now();
    let result = loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                if let Ok(Some(result)) = answer(&mut stream, &shaders) {
                    break result;
                }
            }
            Err(_) if started.elapsed() > PATIENCE => break "unavailable: no answer".into(),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    if result.starts_with("unavailable") {
        eprintln!("SKIPPED: Chromium has no WebGPU here ({result})");
        return;
    }
    assert_eq!(result, format!("{} shaders", all.len()));
    eprintln!("{result} compiled by Chromium");
}
