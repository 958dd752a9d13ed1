//! Resolve a model name to local files; pure file system, no network.
