# Common commands. `just --list` shows them.

# Format, lint and test: what most changes need
default: check test

# Formatting and lints
check:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings

# Unit and integration tests; `just test chat` runs those whose names match
test *filter:
    cargo test --locked {{filter}}

# Tests that need PostgreSQL and Redis
services:
    tests/services.sh cargo test --locked --test it -- --ignored access:: record::

# All checks of a change
ci:
    .ci/run

# The server with the bundled models
serve *args:
    cargo run --release -- serve {{args}}

# Write the OpenAPI documents again
openapi:
    cargo run --locked -- openapi > openapi/openapi.json
    cargo run --locked -- openapi --runs > openapi/runs.json
    cargo run --locked -- env --openapi > openapi/environment.json

# Accept changed snapshots
snapshots:
    find tests src -name '*.snap.new' -exec sh -c 'mv "$1" "${1%.new}"' _ {} \;

# Lints of the code for CUDA; needs no CUDA
cuda:
    tests/cuda/check.sh

# API documentation of the crate
doc:
    cargo doc --locked --no-deps --document-private-items --open

# A benchmark by name: just bench loop
bench name:
    cargo bench --locked --bench {{name}}
