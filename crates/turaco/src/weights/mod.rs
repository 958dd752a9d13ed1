//! Reading weight files: which format, which model, which tensors.
