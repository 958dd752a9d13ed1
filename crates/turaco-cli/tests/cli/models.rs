//! `turaco models`.

use crate::support::{Home, english_model, model, run, speech};

#[test]
fn the_list_has_known_and_cached_models() {
    let home = Home::new();
    let text = home.run(["models", "list"]).stdout;
    assert!(text.contains("tiny.en") && text.contains("large-v3-turbo"));
    assert_eq!(home.run(["models", "list", "--cached"]).succeeds(), "");

    // A model in the cache, as huggingface_hub lays it out.
    let commit = "0123456789012345678901234567890123456789";
    let repo = "hub/models--openai--whisper-tiny";
    home.write(&format!("{repo}/refs/main"), commit);
    for name in ["config.json", "model.safetensors"] {
        let bytes = std::fs::read(model().join(name)).unwrap();
        home.write(&format!("{repo}/snapshots/{commit}/{name}"), bytes);
    }
    let run = home.run(["models", "list", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(run.succeeds()).unwrap();
    let rows = rows.as_array().unwrap();
    let tiny = rows.iter().find(|row| row["name"] == "tiny").unwrap();
    assert_eq!(tiny["id"], "openai/whisper-tiny");
    assert!(tiny["missing"].is_array() && tiny["format"] == "safetensors");
    let base = rows.iter().find(|row| row["name"] == "base").unwrap();
    assert_eq!(
        (&base["cached"], &base["path"]),
        (&false.into(), &serde_json::Value::Null)
    );

    home.run(["models", "remove", "openai/whisper-tiny"])
        .succeeds();
    assert!(!home.path(repo).exists());
    assert_ne!(
        home.run(["models", "remove", "openai/whisper-tiny"]).code,
        0
    );
}

#[test]
fn paths_are_printed_and_missing_ones_are_3() {
    let home = Home::new();
    let run_path = run(home.command(["models", "path"]).arg(model()));
    assert_eq!(run_path.succeeds().trim(), model().to_str().unwrap());
    let folder = home.path("more");
    std::fs::create_dir_all(folder.join("base")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(model().join(name), folder.join("base").join(name)).unwrap();
    }
    home.write("more/base/tokenizer.json", "{}");
    let mut command = home.command(["models", "path", "base", "--model_dir"]);
    let found = run(command.arg(&folder));
    assert_eq!(
        found.succeeds().trim(),
        folder.join("base").to_str().unwrap()
    );
    home.run(["models", "path", "base"])
        .fails(3, &["base", "models pull base"]);
    home.run(["models", "path", "bsae.en"])
        .fails(3, &["base.en"]);
}

#[test]
fn info_says_what_a_model_is() {
    let home = Home::new();
    let facts = |path: &std::path::Path| -> serde_json::Value {
        let run = run(home.command(["models", "info", "--json"]).arg(path));
        serde_json::from_str(run.succeeds()).unwrap()
    };
    let multilingual = facts(model());
    assert_eq!(multilingual["format"], "safetensors");
    assert_eq!(multilingual["kind"], "whisper");
    assert_eq!(multilingual["vocabulary"], 51_865);
    assert_eq!(multilingual["multilingual"], true);
    assert_eq!(multilingual["encoder"]["layers"], 1);
    assert_eq!(multilingual["languages"].as_array().unwrap().len(), 99);
    assert!(multilingual["size"].as_u64().unwrap() > 1_000_000);
    assert_eq!(facts(english_model())["multilingual"], false);
    let text = run(home.command(["models", "info"]).arg(model()));
    assert!(
        text.succeeds().contains("format         safetensors"),
        "{text:?}"
    );
}

#[test]
fn the_doctor_finds_this_machine_well() {
    let home = Home::new();
    let text = home.run(["doctor"]);
    for part in ["kernels", "model cache", "linear f32", "ok (", "ffmpeg"] {
        assert!(text.succeeds().contains(part), "{part}: {text:?}");
    }
    let mut command = home.command(["doctor", "--json"]);
    let run = run(command.env("HF_TOKEN", "hf_secret"));
    let facts: serde_json::Value = serde_json::from_str(run.succeeds()).unwrap();
    assert_eq!(facts["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(facts["passed"], true);
    assert_eq!(facts["model"], "tiny.en");
    for (adapter, kept) in facts["graphics_shaders"].as_object().unwrap() {
        assert!(text.stdout.contains("graphics shaders"), "{text:?}");
        // The run before this one left a file, if the driver lets it.
        let kept = kept.as_str().unwrap();
        assert!(
            kept.starts_with("all ") || kept.contains(" made; "),
            "{adapter}: {kept}"
        );
    }
    assert!(!run.stdout.contains("hf_secret"));
}

#[test]
fn converted_models_are_smaller_and_still_models() {
    let home = Home::new();
    let size = |name: &str| std::fs::metadata(home.path(name)).unwrap().len();
    run(home.command(["models", "convert"]).arg(model()).arg("wide")).succeeds();
    run(home
        .command(["models", "convert", "--dtype=f16"])
        .arg(model())
        .arg("narrow"))
    .succeeds();
    assert!(size("narrow/model.safetensors") < size("wide/model.safetensors") * 6 / 10);
    let info = home.run(["models", "info", "--json", "narrow"]);
    let facts: serde_json::Value = serde_json::from_str(info.succeeds()).unwrap();
    assert_eq!(facts["multilingual"], true);
    assert!(facts["dtypes"].as_object().unwrap().len() == 1, "{facts}");

    // What is there already is not written over.
    run(home.command(["models", "convert"]).arg(model()).arg("wide"))
        .fails(1, &["[wide]", "exists already"]);
    run(home
        .command(["models", "convert", "--dtype=q8"])
        .arg(model())
        .arg("tiny8"))
    .fails(2, &["expected f32, f16, bf16"]);
    assert!(!home.path("tiny8").exists());
}

#[test]
fn quantised_models_say_the_same() {
    let home = Home::new();
    let clip = speech();
    for weight_type in ["q8", "bf16"] {
        run(home
            .command(["models", "quantize", "--type", weight_type])
            .arg(model())
            .arg(weight_type))
        .succeeds();
        let quantised = run(home
            .command(["transcribe", "-m", weight_type, "-v"])
            .arg(&clip));
        let at_load = run(home
            .command(["transcribe", "--compute-type", weight_type, "-m"])
            .arg(model())
            .arg(&clip));
        assert_eq!(quantised.succeeds(), at_load.succeeds());
        // A packed model can be had in any other type too.
        run(home
            .command(["transcribe", "--compute-type", "f32", "-m", weight_type])
            .arg(&clip))
        .succeeds();
    }
    // The option that all commands have says it, too.
    run(home
        .command(["models", "quantize", "--compute-type", "bf16"])
        .arg(model())
        .arg("same"))
    .succeeds();
    let weights =
        |folder: &str| std::fs::read(home.path(folder).join("model.safetensors")).unwrap();
    assert!(weights("same") == weights("bf16"));
}
