//! Layers shared by models.
