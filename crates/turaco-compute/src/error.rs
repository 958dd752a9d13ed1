//! What can go wrong below the models.

/// An error of the compute layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two shapes that have to agree do not.
    #[error("shape mismatch in {what}: expected {expected}, found {found}")]
    Shape {
        /// The operation or tensor.
        what: String,
        /// What would have been right.
        expected: String,
        /// What was given.
        found: String,
    },
    /// A combination of types or sizes that the device has no kernel for.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// The operation, weight type or device feature.
        what: String,
        /// Why, and what would work.
        reason: String,
    },
    /// Memory of the host or device ran out.
    #[error("out of memory: {bytes} bytes for {what}")]
    OutOfMemory {
        /// How much was asked for.
        bytes: usize,
        /// For what.
        what: String,
    },
    /// There is no such device, or it failed while it worked (it was lost, a driver refused, it did not answer).
    #[error("device {device}: {reason}")]
    Device {
        /// Its name.
        device: String,
        /// What happened.
        reason: String,
    },
    /// A file could not be mapped.
    #[error("cannot map file: {0}")]
    Map(#[from] std::io::Error),
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;
