//! AdamW with decoupled weight decay and resumable state.
