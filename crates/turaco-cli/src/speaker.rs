//! The loudspeaker.

#[cfg(feature = "microphone")]
pub use with_cpal::Speaker;
#[cfg(not(feature = "microphone"))]
pub use without::Speaker;

/// Sound devices through cpal: ALSA, CoreAudio, WASAPI.
#[cfg(feature = "microphone")]
mod with_cpal {
    use std::collections::VecDeque;
    use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
    use std::time::Duration;

    use cpal::traits::{DeviceTrait, HostTrait, StreamTrait};
    use cpal::{FromSample, SampleFormat, SizedSample};
    use turaco::Control;
    use turaco::audio::Resampler;

    use crate::exit::{Exit, Failure};

    /// Seconds of sound that wait to be heard at most.
    const AHEAD: usize = 10;

    /// An open output device.
    pub struct Speaker {
        _stream: cpal::Stream,
        queue: Arc<Queue>,
        resampler: Option<Resampler>,
        rate: usize,
    }

    #[derive(Default)]
    struct Queue {
        state: Mutex<State>,
        changed: Condvar,
    }

    #[derive(Default)]
    struct State {
        samples: VecDeque<f32>,
        failed: Option<Failure>,
    }

    impl Queue {
        fn lock(&self) -> MutexGuard<'_, State> {
            self.state.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    fn failure(what: &str, error: impl std::fmt::Display) -> Failure {
        let mut failure = Failure::usage(format!("{what}: {error}"))
            .hint("`-o FILE.wav` writes the sound; it can be piped, too: `turaco speak … | aplay`");
        failure.exit = Exit::Device;
        failure.code = "no_speaker";
        failure
    }

    impl Speaker {
        /// The default output device, for mono samples at `rate`.
        pub fn open(rate: u32) -> Result<Self, Failure> {
            let device = cpal::default_host()
                .default_output_device()
                .ok_or_else(|| failure("no loudspeaker", "the system names no output device"))?;
            let config = device
                .default_output_config()
                .map_err(|error| failure("the loudspeaker cannot be used", error))?;
            let format = config.sample_format();
            let config = config.config();
            let device_rate = config.sample_rate;
            let queue = Arc::new(Queue::default());
            let stream = match format {
                SampleFormat::I16 => build::<i16>(&device, config, &queue),
                SampleFormat::U16 => build::<u16>(&device, config, &queue),
                SampleFormat::I32 => build::<i32>(&device, config, &queue),
                SampleFormat::F32 => build::<f32>(&device, config, &queue),
                other => Err(failure(
                    "the loudspeaker cannot be used",
                    format!("samples are {other}"),
                )),
            }?;
            stream
                .play()
                .map_err(|error| failure("the loudspeaker cannot be used", error))?;
            Ok(Self {
                _stream: stream,
                queue,
                resampler: Some(Resampler::new(rate, device_rate)?),
                rate: device_rate as usize,
            })
        }

        /// Let samples be heard; waits where the sound is far ahead.
        pub fn write(&mut self, samples: &[f32], control: &Control) -> Result<(), Failure> {
            let mut out = Vec::new();
            if let Some(resampler) = &mut self.resampler {
                resampler.push(samples, &mut out);
            }
            self.put(out, control)
        }

        /// Let samples be heard behind all that waits already, without waiting.
        pub fn queue(&mut self, samples: &[f32]) -> Result<(), Failure> {
            let mut out = Vec::new();
            if let Some(resampler) = &mut self.resampler {
                resampler.push(samples, &mut out);
            }
            let mut state = self.queue.lock();
            state.samples.extend(out);
            match state.failed.take() {
                Some(failure) => Err(failure),
                None => Ok(()),
            }
        }

        /// Be silent at once: what waits to be heard is dropped.
        pub fn hush(&mut self) {
            self.queue.lock().samples.clear();
        }

        /// Wait until everything was heard.
        pub fn finish(mut self, control: &Control) -> Result<(), Failure> {
            let mut out = Vec::new();
            if let Some(resampler) = self.resampler.take() {
                resampler.finish(&mut out);
            }
            self.put(out, control)?;
            self.wait_for(0, control)?;
            // What the device itself still holds.
            std::thread::sleep(Duration::from_millis(200));
            Ok(())
        }

        fn put(&self, samples: Vec<f32>, control: &Control) -> Result<(), Failure> {
            self.wait_for(AHEAD * self.rate, control)?;
            self.queue.lock().samples.extend(samples);
            Ok(())
        }

        fn wait_for(&self, most: usize, control: &Control) -> Result<(), Failure> {
            let mut state = self.queue.lock();
            while state.samples.len() > most {
                control.check()?;
                if let Some(failure) = state.failed.take() {
                    return Err(failure);
                }
                let wait = self
                    .queue
                    .changed
                    .wait_timeout(state, Duration::from_millis(50));
                state = wait.unwrap_or_else(PoisonError::into_inner).0;
            }
            Ok(())
        }
    }

    fn build<T>(
        device: &cpal::Device,
        config: cpal::StreamConfig,
        queue: &Arc<Queue>,
    ) -> Result<cpal::Stream, Failure>
    where
        T: SizedSample + FromSample<f32>,
    {
        let channels = usize::from(config.channels).max(1);
        let (sound, broken) = (Arc::clone(queue), Arc::clone(queue));
        let play = move |samples: &mut [T], _: &cpal::OutputCallbackInfo| {
            let mut state = sound.lock();
            for frame in samples.chunks_mut(channels) {
                let sample = state.samples.pop_front().unwrap_or(0.0);
                frame.fill(T::from_sample(sample));
            }
            sound.changed.notify_one();
        };
        let fail = move |error: cpal::Error| {
            broken.lock().failed = Some(failure("the loudspeaker was lost", error));
            broken.changed.notify_one();
        };
        device
            .build_output_stream(config, play, fail, None)
            .map_err(|error| failure("the loudspeaker cannot be used", error))
    }
}

/// A build without sound devices says how to do without.
#[cfg(not(feature = "microphone"))]
mod without {
    use turaco::Control;

    use crate::exit::{Exit, Failure};

    /// There is none.
    pub struct Speaker;

    impl Speaker {
        /// Always a failure that says what to do.
        pub fn open(_: u32) -> Result<Self, Failure> {
            let mut failure = Failure::usage("this build cannot use the loudspeaker by itself").hint(
                "`-o FILE.wav` writes the sound; it can be piped, too: `turaco speak … | aplay` (on macOS: `| play -t wav -`); or build with `--features microphone`",
            );
            failure.exit = Exit::Device;
            failure.code = "no_speaker";
            Err(failure)
        }

        /// Not reached.
        pub fn queue(&mut self, _: &[f32]) -> Result<(), Failure> {
            Ok(())
        }

        /// Not reached.
        pub fn hush(&mut self) {}

        /// Not reached.
        pub fn write(&mut self, _: &[f32], _: &Control) -> Result<(), Failure> {
            Ok(())
        }

        /// Not reached.
        pub fn finish(self, _: &Control) -> Result<(), Failure> {
            Ok(())
        }
    }
}
