//! large_model.
