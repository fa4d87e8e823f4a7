# Shortcuts. Each is one command that can be typed without just; CI runs `bash .ci/run`, as `just ci`.

# Run the server; arguments go to it.
run *args:
    cargo run -- {{ args }}

# Run every test, the foreign clients among them.
test:
    cargo test --workspace

# Say what the compiler, clippy and buf object to.
lint:
    cargo clippy --workspace --all-targets -- -D warnings && $(tests/clients/install | sed -n 's/^buf=//p') lint

# Format the Rust code and the contract.
fmt:
    cargo fmt --all && $(tests/clients/install | sed -n 's/^buf=//p') format --write

# Measure.
bench:
    cargo bench --workspace

# Run all that CI runs.
ci:
    bash .ci/run

# Install the foreign clients of the tests and say where they are.
clients:
    tests/clients/install

# Give any bytes to a fuzz target, block or request, until stopped.
fuzz target:
    cargo +nightly fuzz run --fuzz-dir tests/fuzz --sanitizer none {{ target }} tests/fuzz/seeds/{{ target }}

# Build the documentation of the code and open it.
doc:
    cargo doc --workspace --no-deps --open
