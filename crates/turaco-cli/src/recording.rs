//! Sound files that are written while there is more to come.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use turaco::audio::{WavFormat, wav_header};

use crate::exit::Failure;

/// How samples are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// WAV, 16 bit.
    Wav,
    /// 16-bit samples, nothing else.
    Pcm,
}

/// A file that has its name only when it is complete, or from the start if it is to be watched while it grows.
pub struct Recording {
    path: PathBuf,
    /// Where it is written; the same as `path` if it grows in the open.
    at: PathBuf,
    writer: BufWriter<File>,
    container: Container,
    sample_rate: u32,
    n_samples: u64,
    finished: bool,
}

impl Recording {
    /// A file that grows under its own name.
    pub fn create(path: &Path, sample_rate: u32) -> Result<Self, Failure> {
        Self::open(path, path.to_path_buf(), Container::Wav, sample_rate)
    }

    /// A file that appears when it is complete.
    pub fn create_hidden(
        path: &Path,
        container: Container,
        sample_rate: u32,
    ) -> Result<Self, Failure> {
        // Devices and pipes are no files that could be replaced.
        let is_special = fs::metadata(path).is_ok_and(|known| !known.is_file());
        let at = match (is_special, path.file_name()) {
            (false, Some(name)) => {
                let mut name = name.to_owned();
                name.push(".part");
                path.with_file_name(name)
            }
            _ => path.to_path_buf(),
        };
        Self::open(path, at, container, sample_rate)
    }

    fn open(
        path: &Path,
        at: PathBuf,
        container: Container,
        sample_rate: u32,
    ) -> Result<Self, Failure> {
        let attempt = || {
            let mut writer = BufWriter::new(File::create(&at)?);
            if container == Container::Wav {
                writer.write_all(&wav_header(sample_rate, WavFormat::S16, None))?;
            }
            Ok(writer)
        };
        let writer = attempt().map_err(|error: io::Error| Failure::write(path, &error))?;
        Ok(Self {
            path: path.to_path_buf(),
            at,
            writer,
            container,
            sample_rate,
            n_samples: 0,
            finished: false,
        })
    }

    /// More sound.
    pub fn write(&mut self, samples: &[f32]) -> Result<(), Failure> {
        self.n_samples += samples.len() as u64;
        let written = write_s16(&mut self.writer, samples);
        written.map_err(|error| Failure::write(&self.path, &error))
    }

    /// There is no more sound.
    pub fn finish(mut self) -> Result<(), Failure> {
        let finished = self.complete();
        self.finished = finished.is_ok();
        finished.map_err(|error| Failure::write(&self.path, &error))
    }

    fn complete(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        let data_bytes = u32::try_from(2 * self.n_samples).ok();
        let data_bytes = data_bytes.filter(|bytes| *bytes <= u32::MAX - 64);
        if self.container == Container::Wav && data_bytes.is_some() {
            let header = wav_header(self.sample_rate, WavFormat::S16, data_bytes);
            let file = self.writer.get_mut();
            // A FIFO cannot go back; its header says that the length is unknown.
            if file.seek(SeekFrom::Start(0)).is_ok() {
                file.write_all(&header)?;
            }
        }
        if self.at != self.path {
            fs::rename(&self.at, &self.path)?;
        }
        Ok(())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.finished && self.at != self.path {
            let _ = fs::remove_file(&self.at);
        }
    }
}

/// Samples as 16-bit numbers, clipped.
pub fn write_s16(writer: &mut impl Write, samples: &[f32]) -> io::Result<()> {
    for sample in samples {
        writer.write_all(&((sample * 32_768.0).round() as i16).to_le_bytes())?;
    }
    Ok(())
}
