//! What the host gives to a run, in memory that it and the device share: mapped while the host writes, copied by the run. A page
//! in a browser, which cannot wait for a mapping, has the queue copy instead.

use std::sync::mpsc::sync_channel;

use super::adapter::CAN_WAIT;
use super::context::{Answer, Context};
use crate::error::Result;

/// A buffer that is mapped between runs, so that a run makes no other.
pub(super) struct Upload {
    buffer: wgpu::Buffer,
    state: State,
}

enum State {
    Mapped,
    /// Mapped once the device has done what it reads the buffer for.
    Requested(Answer),
    Unmapped,
}

impl Upload {
    pub fn new(context: &Context, bytes: u64) -> Result<Self> {
        let what = "a copy of the inputs of a step";
        if !CAN_WAIT {
            let usage = wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
            return Ok(Self {
                buffer: context.buffer(bytes, usage, what)?,
                state: State::Unmapped,
            });
        }
        let usage = wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC;
        Ok(Self {
            buffer: context.mapped_buffer(bytes, usage, what)?,
            state: State::Mapped,
        })
    }

    /// The buffer, to be copied from.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }

    /// Fill it with parts, each at a byte that is a multiple of 8; the device may read it then.
    pub fn write(&mut self, context: &Context, parts: &[(usize, &[u8])]) -> Result<()> {
        if !CAN_WAIT {
            for &(at, bytes) in parts.iter().filter(|(_, bytes)| !bytes.is_empty()) {
                context.queue.write_buffer(&self.buffer, at as u64, bytes);
            }
            return Ok(());
        }
        // A run that failed has not asked for it back.
        if matches!(self.state, State::Unmapped) {
            self.take_back();
        }
        if let State::Requested(answer) = &self.state {
            context.wait_for(answer, "its inputs cannot be written")?;
            self.state = State::Mapped;
        }
        let mut range = self
            .buffer
            .get_mapped_range_mut(..)
            .map_err(|error| context.error(format!("its inputs cannot be written: {error}")))?;
        for &(at, bytes) in parts {
            range.slice(at..at + bytes.len()).copy_from_slice(bytes);
        }
        drop(range);
        self.buffer.unmap();
        self.state = State::Unmapped;
        Ok(())
    }

    /// Ask for the buffer back after a submission that reads it.
    pub fn take_back(&mut self) {
        if !CAN_WAIT {
            return;
        }
        let (sender, receiver) = sync_channel(1);
        self.buffer
            .map_async(wgpu::MapMode::Write, .., move |result| {
                // Nobody listens any more if the step is gone.
                let _ = sender.send(result);
            });
        self.state = State::Requested(receiver);
    }
}
