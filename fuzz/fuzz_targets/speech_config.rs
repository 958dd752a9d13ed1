#![no_main]

mod folder;

use libfuzzer_sys::fuzz_target;
use turaco::models::qwen3_tts::Qwen3TtsConfig;
use turaco::models::qwen3_tts::codec::CodecConfig;
use turaco::weights::Sidecars;

fuzz_target!(|data: &[u8]| {
    let folder = folder::with(&[("config.json", data), ("generation_config.json", data)]);
    let sidecars = Sidecars::new(folder);
    if let Ok(Some(config)) = CodecConfig::read(&sidecars) {
        assert!(config.decoder.samples_per_frame() > 0 && config.encoder.samples_per_frame() > 0);
        let _ = (config.decoder.rows_per_frame(), config.encoder.last_width());
    }
    if let Ok(Some(config)) = Qwen3TtsConfig::read(&sidecars) {
        let names: Vec<&str> = config.language_names().collect();
        assert!(names.iter().all(|name| config.language_id(name).is_some()));
    }
});
