//! Whole files in every format, correct and damaged.

use super::*;
use std::io::Cursor;

/// A fixture of `testdata/audio`.
fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/../../testdata/audio/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap()
}

fn built_in() -> DecodeOptions {
    DecodeOptions::new().built_in_only(true)
}

/// Cosine of the angle between two signals.
#[cfg(feature = "decode")]
fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    let len = a.len().min(b.len());
    dot(&a[..len], &b[..len]) / (dot(&a[..len], &a[..len]) * dot(&b[..len], &b[..len])).sqrt()
}

/// A WAV file from its parts.
struct Wav {
    tag: u16,
    channels: u16,
    rate: u32,
    bits: u16,
    extensible: bool,
    before_data: Vec<u8>,
    data_length: Option<u32>,
    riff_length: Option<u32>,
    id: [u8; 4],
    data: Vec<u8>,
}

impl Wav {
    fn new(tag: u16, channels: u16, rate: u32, bits: u16, data: Vec<u8>) -> Self {
        Self {
            tag,
            channels,
            rate,
            bits,
            extensible: false,
            before_data: Vec::new(),
            data_length: None,
            riff_length: None,
            id: *b"RIFF",
            data,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut fmt = Vec::new();
        let align = self.channels.wrapping_mul(self.bits.div_ceil(8));
        let tag = if self.extensible { 0xfffe } else { self.tag };
        fmt.extend_from_slice(&tag.to_le_bytes());
        fmt.extend_from_slice(&self.channels.to_le_bytes());
        fmt.extend_from_slice(&self.rate.to_le_bytes());
        fmt.extend_from_slice(&self.rate.wrapping_mul(u32::from(align)).to_le_bytes());
        fmt.extend_from_slice(&align.to_le_bytes());
        fmt.extend_from_slice(&self.bits.to_le_bytes());
        if self.extensible {
            fmt.extend_from_slice(&22_u16.to_le_bytes());
            fmt.extend_from_slice(&self.bits.to_le_bytes());
            fmt.extend_from_slice(&0_u32.to_le_bytes());
            fmt.extend_from_slice(&self.tag.to_le_bytes());
            fmt.extend_from_slice(b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71");
        }
        let mut body = b"WAVE".to_vec();
        body.extend_from_slice(&if self.id == *b"RF64" {
            Vec::new()
        } else {
            chunk(b"fmt ", &fmt)
        });
        body.extend_from_slice(&self.before_data);
        if self.id == *b"RF64" {
            body.extend_from_slice(&chunk(b"fmt ", &fmt));
        }
        body.extend_from_slice(b"data");
        body.extend_from_slice(
            &self
                .data_length
                .unwrap_or(self.data.len() as u32)
                .to_le_bytes(),
        );
        body.extend_from_slice(&self.data);
        let mut out = self.id.to_vec();
        out.extend_from_slice(&self.riff_length.unwrap_or(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    fn decode(&self) -> Result<Audio> {
        let whole = decode_bytes(self.bytes(), "test.wav", &built_in());
        // The same from a pipe.
        let piped = AudioSource::from_reader(Cursor::new(self.bytes()), "test.wav", &built_in())
            .and_then(AudioSource::collect_audio);
        match (&whole, &piped) {
            (Ok(whole), Ok(piped)) => assert_eq!(whole, piped),
            (Err(whole), Err(piped)) => assert_eq!(whole.to_string(), piped.to_string()),
            _ => panic!("file {whole:?} and pipe {piped:?} differ"),
        }
        whole
    }
}

/// A RIFF chunk, padded to even length.
fn chunk(id: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut out = id.to_vec();
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(2), 0);
    out
}

fn s16(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|x| x.to_le_bytes()).collect()
}

#[test]
fn wav_16_bit_mono_is_exact() {
    let samples: Vec<i16> = (0..50_000)
        .map(|i: i32| (i * 7919 % 65_536 - 32_768) as i16)
        .collect();
    let audio = Wav::new(1, 1, 16_000, 16, s16(&samples)).decode().unwrap();
    assert_eq!(audio.sample_rate(), 16_000);
    let expected: Vec<f32> = samples.iter().map(|x| f32::from(*x) / 32_768.0).collect();
    assert!(audio.samples() == expected);
    let bytes = Wav::new(1, 1, 16_000, 16, s16(&samples)).bytes();
    let at_target = decode_bytes(bytes, "x", &built_in().target_rate(16_000)).unwrap();
    assert!(at_target.samples() == expected);
}

#[test]
fn wav_of_every_depth() {
    let values = [0.0_f64, 0.5, -0.5, 0.25, -1.0];
    let ints = |bytes: usize| -> Vec<u8> {
        let scale = 2_f64.powi(8 * bytes as i32 - 1);
        values
            .iter()
            .flat_map(|v| ((v * scale) as i64).to_le_bytes()[..bytes].to_vec())
            .collect()
    };
    let u8s: Vec<u8> = values.iter().map(|v| (v * 128.0 + 128.0) as u8).collect();
    let f32s: Vec<u8> = values
        .iter()
        .flat_map(|v| (*v as f32).to_le_bytes())
        .collect();
    let f64s: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    for (tag, bits, data) in [
        (1, 8, u8s),
        (1, 16, ints(2)),
        (1, 24, ints(3)),
        (1, 32, ints(4)),
        (3, 32, f32s),
        (3, 64, f64s),
    ] {
        for extensible in [false, true] {
            let wav = Wav {
                extensible,
                ..Wav::new(tag, 1, 22_050, bits, data.clone())
            };
            let audio = wav.decode().unwrap();
            let expected: Vec<f32> = values.iter().map(|v| *v as f32).collect();
            assert_eq!(audio.samples(), expected, "tag {tag}, {bits} bits");
            assert_eq!(audio.sample_rate(), 22_050);
            assert!(audio.notices().is_empty());
        }
    }
    // 20 bits fill a container of 24 from the top, 12 bits one of 16.
    assert_eq!(
        Wav::new(1, 1, 8000, 20, vec![0, 0, 0x40])
            .decode()
            .unwrap()
            .samples(),
        [0.5]
    );
    assert_eq!(
        Wav::new(1, 1, 8000, 12, vec![0, 0x40])
            .decode()
            .unwrap()
            .samples(),
        [0.5]
    );
    assert_eq!(
        Wav::new(7, 1, 8000, 8, vec![0x80])
            .decode()
            .unwrap()
            .samples(),
        [32_124.0 / 32_768.0]
    );
    assert_eq!(
        Wav::new(6, 1, 8000, 8, vec![0xaa])
            .decode()
            .unwrap()
            .samples(),
        [32_256.0 / 32_768.0]
    );
}

#[test]
fn wav_channels() {
    let wav = Wav::new(1, 3, 16_000, 16, s16(&[3000, 6000, 9000, -3, -6, -9]));
    assert_eq!(
        wav.decode().unwrap().samples(),
        [6000.0 / 32_768.0, -6.0 / 32_768.0]
    );
    for (channel, expected) in [(0, 3000.0), (1, 6000.0), (2, 9000.0)] {
        let audio = decode_bytes(wav.bytes(), "x", &built_in().channel(channel)).unwrap();
        assert_eq!(audio.samples()[0], expected / 32_768.0);
    }
    let error = decode_bytes(wav.bytes(), "x", &built_in().channel(3)).unwrap_err();
    assert!(matches!(
        error,
        Error::InvalidOption {
            option: "channel",
            ..
        }
    ));
}

#[test]
fn wav_with_other_chunks_and_lengths() {
    let samples = s16(&[1, 2, 3]);
    let expected = [1.0 / 32_768.0, 2.0 / 32_768.0, 3.0 / 32_768.0];
    let plain = || Wav::new(1, 1, 16_000, 16, samples.clone());
    let mut list = chunk(b"LIST", b"INFOx");
    list.extend_from_slice(&chunk(b"bext", &[7; 333]));
    let odd = Wav {
        before_data: list,
        ..plain()
    };
    let streamed = Wav {
        data_length: Some(u32::MAX),
        riff_length: Some(u32::MAX),
        ..plain()
    };
    let sox = Wav {
        data_length: Some(0x7fff_f000),
        ..plain()
    };
    let unfinished = Wav {
        data_length: Some(0),
        riff_length: Some(0),
        ..plain()
    };
    // Written to a pipe by a program that wanted to go back, or killed before it could.
    let never_filled = Wav {
        data_length: Some(0),
        riff_length: Some(36),
        ..plain()
    };
    let mut ds64 = Vec::new();
    for value in [100_u64, 6, 3] {
        ds64.extend_from_slice(&value.to_le_bytes());
    }
    ds64.extend_from_slice(&[0; 4]);
    let rf64 = Wav {
        id: *b"RF64",
        before_data: chunk(b"ds64", &ds64),
        data_length: Some(u32::MAX),
        riff_length: Some(u32::MAX),
        ..plain()
    };
    for wav in [odd, streamed, sox, unfinished, never_filled, rf64] {
        let audio = wav.decode().unwrap();
        assert_eq!(audio.samples(), expected);
        assert!(audio.notices().is_empty());
    }
    // What follows the samples is not sound.
    let mut trailed = plain().bytes();
    trailed.extend_from_slice(&chunk(b"id3 ", &[9; 100]));
    assert_eq!(
        decode_bytes(trailed, "x", &built_in()).unwrap().samples(),
        expected
    );
}

#[test]
fn wav_without_samples_is_empty_and_truncated_says_so() {
    let empty = Wav::new(1, 1, 16_000, 16, Vec::new()).decode().unwrap();
    assert_eq!((empty.samples().len(), empty.sample_rate()), (0, 16_000));
    assert!(empty.notices().is_empty());
    // What the length of the file counts behind no samples is something else.
    let mut described = Wav::new(1, 1, 16_000, 16, chunk(b"LIST", b"INFO"));
    described.data_length = Some(0);
    assert!(described.decode().unwrap().samples().is_empty());

    let half = Wav {
        data_length: Some(64_000),
        ..Wav::new(1, 1, 16_000, 16, vec![0; 16_000])
    };
    let audio = half.decode().unwrap();
    assert_eq!(audio.samples().len(), 8000);
    assert_eq!(audio.notices(), ["file is truncated: 0.50 s decoded"]);
    // The notice comes too when resampling.
    let audio = decode_bytes(half.bytes(), "x", &built_in().target_rate(8000)).unwrap();
    assert_eq!((audio.samples().len(), audio.notices().len()), (4000, 1));

    let none = Wav {
        data_length: Some(64_000),
        ..Wav::new(1, 1, 16_000, 16, Vec::new())
    };
    assert!(matches!(none.decode().unwrap_err(), Error::Audio { .. }));
}

#[test]
fn wav_headers_may_be_hostile() {
    let data = vec![0; 64];
    for (tag, channels, rate, bits) in [
        (1, 0, 16_000, 16),
        (1, 1, 0, 16),
        (1, 1, 1 << 31, 16),
        (1, 1, 16_000, 0),
        (1, 1, 16_000, 65_535),
        (3, 1, 16_000, 16),
        (0x1234, 1, 16_000, 16),
    ] {
        let error = Wav::new(tag, channels, rate, bits, data.clone())
            .decode()
            .unwrap_err();
        assert!(
            matches!(error, Error::Audio { .. }),
            "{tag} {channels} {rate} {bits}: {error}"
        );
    }
    // More channels than one frame of the file has bytes for.
    let wide = Wav::new(1, 65_535, 16_000, 16, data);
    let _ = wide.decode();
    let no_format = b"RIFF\0\0\0\0WAVEdata\x04\0\0\0\0\0\0\0".to_vec();
    let error = decode_bytes(no_format, "x", &built_in()).unwrap_err();
    assert!(error.to_string().contains("fmt"), "{error}");
    // A chunk that claims 4 GiB is not allocated.
    let mut claim = b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\xff".to_vec();
    claim.extend_from_slice(&[0; 100]);
    assert!(decode_bytes(claim, "x", &built_in()).is_err());
}

#[test]
fn what_is_not_audio_is_named_so() {
    for (bytes, word) in [
        (Vec::new(), "empty"),
        (b"Dear Sir or Madam,\n".to_vec(), "text"),
        (vec![0; 10_000], "not audio"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(), "not audio"),
        (b"%PDF-1.7\n\xff\xfe\0\0".to_vec(), "not audio"),
        (b"PK\x03\x04\0\0\0\0".to_vec(), "not audio"),
    ] {
        let error = decode_bytes(bytes, "thing", &built_in()).unwrap_err();
        assert!(matches!(error, Error::Audio { .. }), "{error}");
        #[cfg(feature = "decode")]
        assert!(error.to_string().contains(word), "{error}");
        #[cfg(not(feature = "decode"))]
        let _ = word;
    }
    let error = Audio::open("/no/such/file.wav").unwrap_err();
    assert!(matches!(error, Error::Io { .. }));
    let error = Audio::open(env!("CARGO_MANIFEST_DIR")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn noise_is_not_audio() {
    let mut state = 42_u32;
    for len in [100, 5_000, 300_000] {
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        let error = decode_bytes(bytes, "noise", &built_in()).unwrap_err();
        assert!(matches!(error, Error::Audio { .. }), "{error}");
    }
}

#[test]
fn spans_are_cut_in_seconds() {
    let samples: Vec<i16> = (0..32_000).map(|i| i as i16).collect();
    let bytes = Wav::new(1, 1, 16_000, 16, s16(&samples)).bytes();
    let cut = |options: DecodeOptions| decode_bytes(bytes.clone(), "x", &options).unwrap();
    let audio = cut(built_in().offset(0.5).duration(0.25));
    assert_eq!(audio.samples().len(), 4000);
    assert_eq!(audio.samples()[0], 8000.0 / 32_768.0);
    assert_eq!(cut(built_in().offset(1.9)).samples().len(), 1600);
    assert_eq!(cut(built_in().offset(5.0)).samples().len(), 0);
    assert_eq!(cut(built_in().duration(0.0)).samples().len(), 0);
    assert_eq!(
        cut(built_in().offset(0.5).duration(0.25).target_rate(8000))
            .samples()
            .len(),
        2000
    );
    for wrong in [f64::NAN, -1.0] {
        assert!(decode_bytes(bytes.clone(), "x", &built_in().offset(wrong)).is_err());
    }
}

#[test]
fn raw_samples_need_no_header() {
    let options = built_in().raw("s16le:8000:2".parse().unwrap());
    let audio = decode_bytes(s16(&[2, 4, 6, 8]), "x", &options).unwrap();
    assert_eq!(audio.samples(), [3.0 / 32_768.0, 7.0 / 32_768.0]);
    assert_eq!(audio.sample_rate(), 8000);
    assert_eq!(
        decode_bytes(Vec::new(), "x", &options)
            .unwrap()
            .samples()
            .len(),
        0
    );
}

#[test]
fn blocks_make_the_whole() {
    let bytes = fixture("clip.wav");
    let options = built_in().target_rate(24_000);
    let whole = decode_bytes(bytes.clone(), "clip.wav", &options).unwrap();
    let source = AudioSource::from_bytes(bytes, "clip.wav", &options).unwrap();
    assert_eq!(source.sample_rate(), 24_000);
    assert!((source.expected_duration().unwrap() - 0.6).abs() < 1e-9);
    let blocks: Vec<Vec<f32>> = source.map(Result::unwrap).collect();
    assert!(blocks.iter().all(|block| !block.is_empty()));
    assert!(blocks.concat() == whole.samples());
}

/// Fixture, rate, least correlation with the original at the same position, and how many samples at 16 kHz it may be longer.
#[cfg(feature = "decode")]
const FIXTURES: [(&str, u32, f64, usize); 13] = [
    ("clip.mp3", 16_000, 0.98, 0),
    ("clip.flac", 16_000, 1.0, 0),
    ("clip.m4a", 16_000, 0.98, 16),
    ("clip_alac.m4a", 16_000, 1.0, 0),
    ("clip_vorbis.ogg", 16_000, 0.98, 0),
    ("clip.opus", 48_000, 0.95, 0),
    ("clip.webm", 48_000, 0.95, 320),
    ("clip.mka", 16_000, 0.98, 1024),
    ("clip.aiff", 16_000, 1.0, 0),
    ("clip.caf", 16_000, 1.0, 0),
    ("clip_adpcm.wav", 16_000, 0.99, 1017),
    ("clip.mp4", 44_100, 0.97, 400),
    ("clip.wav", 16_000, 1.0, 0),
];

#[cfg(feature = "decode")]
#[test]
fn every_format_gives_the_clip() {
    let original = decode_bytes(fixture("clip.wav"), "clip.wav", &built_in()).unwrap();
    for (name, rate, least, longer) in FIXTURES {
        let native = decode_bytes(fixture(name), name, &built_in()).unwrap();
        assert_eq!(native.sample_rate(), rate, "{name}");
        assert!(
            native.notices().is_empty(),
            "{name}: {:?}",
            native.notices()
        );
        let audio = native.resampled(16_000).unwrap();
        let (len, wanted) = (audio.samples().len(), original.samples().len());
        eprintln!(
            "{name}: {len} samples, correlation {:.5}",
            correlation(original.samples(), audio.samples())
        );
        assert!(
            (wanted..=wanted + longer).contains(&len),
            "{name}: {len} samples instead of {wanted}"
        );
        if least == 1.0 {
            assert!(
                audio.samples() == original.samples(),
                "{name} is not lossless"
            );
        } else {
            let got = correlation(original.samples(), audio.samples());
            assert!(got > least, "{name}: correlation {got}");
        }
        // A pipe gives the same.
        assert!(
            Audio::read(Cursor::new(fixture(name)), name)
                .unwrap()
                .resampled(16_000)
                .unwrap()
                == audio
        );
    }
}

/// A bare AAC stream cannot say how much of its start is priming; ffmpeg does not skip it either.
#[cfg(feature = "decode")]
#[test]
fn bare_aac_keeps_its_priming() {
    let original = decode_bytes(fixture("clip.wav"), "clip.wav", &built_in()).unwrap();
    let audio = decode_bytes(fixture("clip.aac"), "clip.aac", &built_in()).unwrap();
    let got = correlation(original.samples(), &audio.samples()[1024..]);
    assert!(got > 0.98, "correlation {got}");
}

#[cfg(feature = "decode")]
#[test]
fn stereo_channels_of_containers_can_be_picked() {
    for name in ["clip.webm", "clip.mp4"] {
        let mean = decode_bytes(fixture(name), name, &built_in()).unwrap();
        let right = decode_bytes(fixture(name), name, &built_in().channel(1)).unwrap();
        assert!(
            correlation(mean.samples(), right.samples()) > 0.99,
            "{name}"
        );
        let error = decode_bytes(fixture(name), name, &built_in().channel(2)).unwrap_err();
        assert!(
            matches!(
                error,
                Error::InvalidOption {
                    option: "channel",
                    ..
                }
            ),
            "{name}: {error}"
        );
    }
}

/// Damage of every kind: an error or some sound, in the time and memory that the file deserves.
#[cfg(feature = "decode")]
#[test]
fn damaged_files_never_panic() {
    let mut state = 2024_u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize
    };
    // Panics of the third-party decoders are caught; their messages would only fill the log.
    let check = |bytes: Vec<u8>, name: &str| {
        let options = built_in().target_rate(16_000);
        if let Ok(audio) = decode_bytes(bytes, name, &options) {
            assert!(audio.samples().iter().all(|x| x.is_finite()), "{name}");
        }
    };
    let names = FIXTURES
        .map(|(name, ..)| name)
        .into_iter()
        .chain(["clip.aac", "clip_speex.ogg"]);
    for name in names {
        let bytes = fixture(name);
        let step = (bytes.len() / 40).max(1);
        for len in (0..bytes.len()).step_by(step).chain(0..64.min(bytes.len())) {
            check(bytes[..len].to_vec(), name);
        }
        for round in 0..60 {
            let mut damaged = bytes.clone();
            // Headers are where damage hurts most.
            let reach = if round % 2 == 0 {
                damaged.len().min(512)
            } else {
                damaged.len()
            };
            for _ in 0..=random() % 8 {
                let position = random() % reach;
                damaged[position] = random() as u8;
            }
            check(damaged, name);
        }
    }
}

/// In Ogg the clip is one page, which cannot be checked and so not used when it is cut; the CAF reader refuses cut files.
#[cfg(feature = "decode")]
#[test]
fn truncated_files_keep_their_start() {
    for (name, said) in [
        ("clip.flac", true),
        ("clip.m4a", true),
        ("clip.aiff", true),
        ("clip_adpcm.wav", true),
        ("clip.mp3", false),
        ("clip.webm", false),
    ] {
        let bytes = fixture(name);
        let audio = decode_bytes(&bytes[..bytes.len() * 2 / 3], name, &built_in());
        let audio = match audio {
            Ok(audio) => audio,
            // An index at the end is lost with the end.
            Err(error) if name == "clip.m4a" => {
                assert!(matches!(error, Error::Audio { .. }), "{error}");
                continue;
            }
            Err(error) => panic!("{name}: {error}"),
        };
        let seconds = audio.duration();
        assert!(seconds > 0.1 && seconds < 0.6, "{name}: {seconds} s");
        eprintln!("{name}: {seconds:.2} s, {:?}", audio.notices());
        assert!(
            !said
                || audio
                    .notices()
                    .iter()
                    .any(|notice| notice.contains("truncated")),
            "{name}"
        );
    }
}

#[test]
fn samples_are_checked_on_the_way_in() {
    let audio = Audio::from_samples(vec![0.5, f32::NAN], 16_000).unwrap();
    assert_eq!(audio.samples(), [0.5, 0.0]);
    assert_eq!(audio.notices().len(), 1);
    assert!(Audio::from_samples(vec![0.5], 0).is_err());
    let empty = Audio::from_samples(Vec::new(), 8000)
        .unwrap()
        .resampled(16_000)
        .unwrap();
    assert_eq!((empty.duration(), empty.sample_rate()), (0.0, 16_000));
}

#[test]
fn resampling_keeps_the_duration() {
    let audio = Audio::from_samples(vec![0.1; 44_100], 44_100).unwrap();
    assert_eq!(audio.resampled(16_000).unwrap().samples().len(), 16_000);
}
