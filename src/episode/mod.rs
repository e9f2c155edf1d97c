//! episode.
