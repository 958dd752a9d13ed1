//! The public packages that applications use, unmodified: `openai`, `wyoming`, a plain WebSocket; and the page in a browser.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use turaco::voice::EndpointOptions;

use crate::conversation::endpoint;
use crate::support::{TestServer, alone, testdata};

/// A folder of the build with the packages; `None` where there is no Python or no package index.
fn packages() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
    let requirements = scripts().join("requirements.txt");
    let wanted = std::fs::read_to_string(&requirements).unwrap();
    let marker = folder.join("installed.txt");
    if std::fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
        return Some(folder);
    }
    // What is left of an older or broken installation.
    let _ = std::fs::remove_dir_all(&folder);
    let output = Command::new("python3")
        .args(["-m", "pip", "install", "-q", "--disable-pip-version-check"])
        .arg("--target")
        .arg(&folder)
        .arg("-r")
        .arg(&requirements)
        .output()
        .ok()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // A machine without pip or without a package index; anything else is a mistake of ours.
        let cannot = ["No matching distribution found", "No module named pip"];
        assert!(
            cannot.iter().any(|reason| said.contains(reason)),
            "pip: {said}"
        );
        return None;
    }
    std::fs::write(marker, wanted).unwrap();
    Some(folder)
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

#[test]
fn public_clients_work_unmodified() {
    let Some(packages) = packages() else {
        eprintln!(
            "SKIPPED: the clients openai and wyoming cannot be installed here, which takes Python and pip"
        );
        return;
    };
    let _alone = alone();
    // Who answers on the page.
    let answer = |asked: &str| match asked.contains("briefly") {
        true => "Yes, of course.".to_owned(),
        false => "word after word, and so on. ".repeat(40),
    };
    let url = endpoint(answer, Duration::from_millis(5));
    let server = TestServer::start(|config| {
        config.api_keys = vec!["secret".into()];
        config.llm = Some(EndpointOptions::new(url, "m"));
    });
    for script in [
        "openai_http.py",
        "openai_realtime.py",
        "vllm_realtime.py",
        "wyoming_client.py",
        "page.py",
        "page_talk.py",
    ] {
        let output = Command::new("python3")
            .env("PYTHONPATH", &packages)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(scripts().join(script))
            .arg(format!("http://{}", server.address))
            .arg(server.wyoming_address.port().to_string())
            .arg(testdata("audio/jfk.wav"))
            .output()
            .unwrap();
        eprint!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(
            output.status.success(),
            "{script}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
