//! Download models that the local cache does not hold.
