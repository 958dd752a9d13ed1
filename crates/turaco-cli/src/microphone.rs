//! The microphone.

#[cfg(feature = "microphone")]
pub use with_cpal::Microphone;
#[cfg(not(feature = "microphone"))]
pub use without::Microphone;

/// Sound devices through cpal: ALSA, CoreAudio, WASAPI.
#[cfg(feature = "microphone")]
mod with_cpal {
    use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
    use cpal::{FromSample, Sample, SampleFormat, SizedSample};
    use turaco::audio::Resampler;

    use crate::exit::{Exit, Failure};
    use crate::inbox::Inbox;

    /// An open input device; sound comes in until it is dropped.
    pub struct Microphone {
        _stream: cpal::Stream,
    }

    fn failure(what: &str, error: impl std::fmt::Display) -> Failure {
        let mut failure = Failure::usage(format!("{what}: {error}"))
            .hint("`--mic NAME` names another device (`turaco listen --list-devices` shows them); sound can be piped in too: `arecord -f S16_LE -r 16000 -c 1 -t raw | turaco listen -`");
        failure.exit = Exit::NoInput;
        failure.code = "no_microphone";
        failure
    }

    impl Microphone {
        /// The names of the input devices; a device's place is its number.
        pub fn names() -> Result<Vec<String>, Failure> {
            let devices = cpal::default_host()
                .input_devices()
                .map_err(|error| failure("no microphone", error))?;
            Ok(devices.map(|device| device.to_string()).collect())
        }

        /// The default input device, the one with the number `name`, or the first one whose name holds it; mono samples at
        /// `rate` go to `inbox`.
        pub fn open(name: &str, rate: u32, inbox: &Inbox) -> Result<Self, Failure> {
            let host = cpal::default_host();
            let device = if name.is_empty() {
                host.default_input_device()
                    .ok_or_else(|| failure("no microphone", "the system names no input device"))?
            } else {
                let mut devices = host
                    .input_devices()
                    .map_err(|error| failure("no microphone", error))?;
                let wanted = name.to_lowercase();
                let holds =
                    |device: &cpal::Device| device.to_string().to_lowercase().contains(&wanted);
                let device = match name.parse() {
                    Ok(number) => devices.nth(number),
                    Err(_) => devices.find(holds),
                };
                let none = || failure("no microphone", format!("none is called `{name}`"));
                device.ok_or_else(none)?
            };
            let config = device
                .default_input_config()
                .map_err(|error| failure("the microphone cannot be used", error))?;
            let format = config.sample_format();
            let config = config.config();
            let stream = match format {
                SampleFormat::I16 => build::<i16>(&device, config, rate, inbox),
                SampleFormat::U16 => build::<u16>(&device, config, rate, inbox),
                SampleFormat::I32 => build::<i32>(&device, config, rate, inbox),
                SampleFormat::F32 => build::<f32>(&device, config, rate, inbox),
                other => {
                    return Err(failure(
                        "the microphone cannot be used",
                        format!("samples are {other}"),
                    ));
                }
            }?;
            stream
                .play()
                .map_err(|error| failure("the microphone cannot be used", error))?;
            Ok(Self { _stream: stream })
        }
    }

    fn build<T>(
        device: &cpal::Device,
        config: cpal::StreamConfig,
        rate: u32,
        inbox: &Inbox,
    ) -> Result<cpal::Stream, Failure>
    where
        T: SizedSample,
        f32: FromSample<T>,
    {
        let channels = usize::from(config.channels).max(1);
        let mut resampler = Resampler::new(config.sample_rate, rate)?;
        let (sound, broken) = (inbox.clone(), inbox.clone());
        let mut mono = Vec::new();
        let mut out = Vec::new();
        let hear = move |samples: &[T], _: &cpal::InputCallbackInfo| {
            mono.clear();
            mono.extend(samples.chunks_exact(channels).map(|frame| {
                let sum: f32 = frame.iter().map(|&x| f32::from_sample(x)).sum();
                sum / channels as f32
            }));
            out.clear();
            resampler.push(&mono, &mut out);
            sound.put(&out);
        };
        let fail =
            move |error: cpal::Error| broken.end(Err(failure("the microphone was lost", error)));
        device
            .build_input_stream(config, hear, fail, None)
            .map_err(|error| failure("the microphone cannot be used", error))
    }
}

/// A build without sound devices says how to do without.
#[cfg(not(feature = "microphone"))]
mod without {
    use crate::exit::{Exit, Failure};
    use crate::inbox::Inbox;

    /// There is none.
    pub struct Microphone;

    impl Microphone {
        /// As [`open`](Self::open).
        pub fn names() -> Result<Vec<String>, Failure> {
            Err(Self::missing())
        }

        /// Always a failure that says what to do.
        pub fn open(_: &str, _: u32, _: &Inbox) -> Result<Self, Failure> {
            Err(Self::missing())
        }

        fn missing() -> Failure {
            let mut failure = Failure::usage("this build cannot use the microphone by itself").hint(
                "pipe the sound in: `arecord -f S16_LE -r 16000 -c 1 -t raw | turaco listen -` (on macOS: `sox -d -t raw -r 16000 -e signed -b 16 -c 1 - | turaco listen -`); or build with `--features microphone`",
            );
            failure.exit = Exit::NoInput;
            failure.code = "no_microphone";
            failure
        }
    }
}
