//! Download what the local cache does not hold.
