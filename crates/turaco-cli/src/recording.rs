//! Sound files that are written while there is more to come.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use turaco::audio::{SoundFormat, SoundWriter};

use crate::exit::Failure;
use crate::files;
use crate::signals::Unfinished;

/// A file that has its name only when it is complete, or from the start if it is to be watched while it grows.
pub struct Recording {
    path: PathBuf,
    /// The file that it becomes.
    real: PathBuf,
    /// Where it is written; the same as `real` if it grows in the open.
    at: PathBuf,
    /// Removes it when the program is made to end.
    unfinished: Option<Unfinished>,
    /// From the first sound until it is finished.
    writer: Option<SoundWriter<BufWriter<File>>>,
    /// A file that there was before: it keeps its content until there is sound.
    replaces: bool,
    /// A file that there was not: it goes again if there is no sound.
    is_new: bool,
    format: SoundFormat,
    sample_rate: u32,
    n_samples: u64,
    finished: bool,
}

impl Recording {
    /// A file that grows under its own name. One that is there already stays as it is until there is sound.
    pub fn create(path: &Path, format: SoundFormat, sample_rate: u32) -> Result<Self, Failure> {
        let at = path.to_path_buf();
        let mut recording = Self::new(path, at, format, sample_rate);
        let known = fs::metadata(path);
        recording.is_new = known.is_err();
        // Devices and pipes hold nothing that could be lost, and are opened once.
        recording.replaces = known.is_ok_and(|known| known.is_file());
        match recording.replaces {
            // Whether it can be written is known now, and not after minutes of work.
            true => drop(
                fs::OpenOptions::new()
                    .append(true)
                    .open(path)
                    .map_err(|error| Failure::write(path, &error))?,
            ),
            false => recording.begin()?,
        }
        Ok(recording)
    }

    /// A file that appears when it is complete.
    pub fn create_hidden(
        path: &Path,
        format: SoundFormat,
        sample_rate: u32,
    ) -> Result<Self, Failure> {
        let real = files::replaced_by(path);
        let is_special = files::is_special(path);
        let at = match is_special {
            true => path.to_path_buf(),
            false => files::temporary_name(&real),
        };
        let mut recording = Self::new(path, at, format, sample_rate);
        if !is_special {
            recording.real = real;
            recording.unfinished = Some(Unfinished::new(&recording.at));
        }
        recording.begin()?;
        Ok(recording)
    }

    fn new(path: &Path, at: PathBuf, format: SoundFormat, sample_rate: u32) -> Self {
        Self {
            path: path.to_path_buf(),
            real: at.clone(),
            at,
            unfinished: None,
            writer: None,
            replaces: false,
            is_new: false,
            format,
            sample_rate,
            n_samples: 0,
            finished: false,
        }
    }

    /// Make the file.
    fn begin(&mut self) -> Result<(), Failure> {
        let attempt = || {
            let file = BufWriter::new(File::create(&self.at)?);
            SoundWriter::new(file, self.format, self.sample_rate)
        };
        let writer = attempt().map_err(|error: io::Error| Failure::write(&self.path, &error))?;
        self.writer = Some(writer);
        self.replaces = false;
        Ok(())
    }

    /// The name that it has in the end.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// More sound.
    pub fn write(&mut self, samples: &[f32]) -> Result<(), Failure> {
        if self.replaces && !samples.is_empty() {
            self.begin()?;
        }
        self.n_samples += samples.len() as u64;
        let watched = self.at == self.real;
        let written = self.writer.as_mut().map_or(Ok(()), |writer| {
            writer.write(samples)?;
            // Whoever looks at the file sees all of the sound.
            if watched {
                writer.get_mut().flush()
            } else {
                Ok(())
            }
        });
        written.map_err(|error| Failure::write(&self.path, &error))
    }

    /// There is no more sound.
    pub fn finish(mut self) -> Result<(), Failure> {
        if self.replaces {
            self.begin()?;
        }
        let finished = self.complete();
        self.finished = finished.is_ok();
        finished.map_err(|error| Failure::write(&self.path, &error))
    }

    fn complete(&mut self) -> io::Result<()> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        let (mut file, head) = writer.finish_with_head()?;
        // A FIFO cannot go back; its first bytes say that the length is unknown.
        if !head.is_empty() && file.seek(SeekFrom::Start(0)).is_ok() {
            file.write_all(&head)?;
            file.flush()?;
        }
        if self.at != self.real {
            fs::rename(&self.at, &self.real)?;
        }
        self.unfinished = None;
        Ok(())
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if self.at == self.real {
            // What was interrupted while it grew is a whole file all the same.
            let _ = self.complete();
            if self.is_new && self.n_samples == 0 {
                let _ = fs::remove_file(&self.at);
            }
        } else {
            let _ = fs::remove_file(&self.at);
        }
    }
}
