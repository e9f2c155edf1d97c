//! Where tasks come from: Parquet and JSON Lines files, and the bundled world.

pub mod world;
