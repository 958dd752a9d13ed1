//! `turaco serve`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::support::{Home, model, wav};

/// A server with a small model, and its address.
fn start(home: &Home, more: &[&str]) -> (Child, String) {
    let model = model().to_str().unwrap();
    let args = ["serve", "-m", model, "--port", "0", "--device", "cpu"];
    let mut child = home
        .command(args.iter().chain(more))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let address = line.trim().rsplit("http://").next().unwrap().to_owned();
    // The log has to go somewhere.
    std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
    (child, address)
}

fn ask(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
#[cfg(unix)]
fn a_server_answers_until_it_is_asked_to_end() {
    let home = Home::new();
    let (mut child, address) = start(&home, &["--api-key", "secret", "--wyoming-port", "0"]);
    let get = |path: &str, key: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{key}\r\n");
        ask(&address, head.as_bytes())
    };
    assert!(get("/health", "").starts_with("HTTP/1.1 200"));
    assert!(get("/v1/models", "").starts_with("HTTP/1.1 401"));
    let models = get("/v1/models", "Authorization: Bearer secret\r\n");
    assert!(models.contains("automatic-speech-recognition"), "{models}");
    let mut body =
        b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n"
            .to_vec();
    body.extend(wav(0.5));
    body.extend(b"\r\n--x--\r\n");
    let mut request = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer secret\r\n\
         Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend(body);
    let answer = ask(&address, &request);
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("\"text\""),
        "{answer}"
    );
    let ended = Command::new("kill").arg(child.id().to_string()).status();
    assert!(ended.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
#[cfg(unix)]
fn a_server_answers_at_sockets_in_the_file_system() {
    use std::os::unix::net::UnixStream;

    let home = Home::new();
    let (http, wyoming) = (home.path("http"), home.path("wyoming"));
    let unix = |path: &std::path::Path| format!("unix://{}", path.display());
    let (mut child, line) = start(
        &home,
        &["--host", &unix(&http), "--wyoming-port", &unix(&wyoming)],
    );
    assert!(line.ends_with(&unix(&http)), "{line}");
    let mut stream = UnixStream::connect(&http).unwrap();
    stream
        .write_all(b"GET /v1/stats HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\"operations\""), "{answer}");
    UnixStream::connect(&wyoming).unwrap();
    let ended = Command::new("kill").arg(child.id().to_string()).status();
    assert!(ended.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!http.exists() && !wyoming.exists());
}

#[test]
#[cfg(target_os = "linux")]
fn a_server_whose_log_has_no_room_serves_on() {
    use std::os::unix::net::UnixStream;

    let home = Home::new();
    let socket = home.path("socket");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let full = full.unwrap();
    let host = format!("unix://{}", socket.display());
    let model = model().to_str().unwrap();
    let mut child = home
        .command(["serve", "-m", model, "--device", "cpu", "--host", &host])
        .stdout(full.try_clone().unwrap())
        .stderr(full)
        .spawn()
        .unwrap();
    let connect = || {
        for _ in 0..3000 {
            match UnixStream::connect(&socket) {
                Ok(stream) => return stream,
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        }
        panic!("nobody listens");
    };
    let mut body =
        b"--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n"
            .to_vec();
    body.extend(wav(0.5));
    body.extend(b"\r\n--x--\r\n");
    let head = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    for _ in 0..3 {
        let mut stream = connect();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let ended = Command::new("kill").arg(child.id().to_string()).status();
    assert!(ended.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_cannot_be_served_is_said() {
    let home = Home::new();
    home.run(["serve", "--keep-alive", "soon"])
        .fails(2, &["--keep-alive", "expected a time"]);
    home.run(["serve", "--max-upload", "much"])
        .fails(2, &["--max-upload", "expected a size"]);
    home.run(["serve", "--vad", "telepathy"])
        .fails(2, &["--vad", "silero, energy, none"]);
    home.run(["serve", "-m", "no-such-model"])
        .fails(3, &["no-such-model"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let model = model().to_str().unwrap();
    home.run(["serve", "-m", model, "--port", &port])
        .fails(2, &["cannot listen on 127.0.0.1", "--port N"]);
    home.run(["serve", "-m", model, "--wyoming-port", "unix://"])
        .fails(2, &["--wyoming-port", "unix:///PATH"]);
    let url = ["serve", "-m", model, "--llm-url", "http://127.0.0.1:1/v1"];
    home.run(url.iter().chain(&["--llm-key", "two words"]))
        .fails(2, &["--llm-key", "a space"]);
}
