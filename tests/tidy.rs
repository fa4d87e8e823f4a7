//! The house's rules, held by machine: layers, SQL, protocols, waiting, clocks, files.
//!
//! Each rule is a checker of one file at a time, and each checker is shown to catch what breaks its
//! rule: so none of these tests passes because it looks at nothing.

#[path = "tidy/tokens.rs"]
mod tokens;

use std::fmt;
use std::fs;
use std::path::Path;
use tokens::{Kind, Token, imported, imported_above, is_root, tokens};

/// What each module at the server's root may import of the others: the table of src/lib.rs.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("main", &["app", "config", "console", "engine"]),
    ("lib", &[]),
    ("app", &["config", "serve", "collect", "engine", "state", "storage"]),
    ("console", &["serve", "engine", "storage"]),
    ("config", &["serve", "collect", "engine", "state", "storage"]),
    ("serve", &["engine", "state", "storage"]),
    ("collect", &["engine", "state", "storage"]),
    ("engine", &["state", "storage", "canary"]),
    ("state", &["canary"]),
    ("storage", &["canary"]),
    ("canary", &[]),
];
/// The crate that the client library shares: few dependencies, and none that waits or speaks.
const MODEL: &str = "crates/model/";
/// The client library.
const CLIENT: &str = "crates/client/";
/// What the crates beside the server may not depend on: these, and those that begin with one and a
/// hyphen.
const NOT_IN: [(&str, &[&str]); 2] = [
    (MODEL, &["healthd", "tokio", "tonic", "rusqlite", "prost"]),
    (CLIENT, &["healthd", "rusqlite", "deadpool-sqlite", "libsqlite3-sys"]),
];
/// Of ours, what both may depend on.
const SHARED: &str = "healthd-model";
/// The only place with SQL.
const SQL_IN: &str = "src/storage/sqlite/";
const SQL_CRATES: [&str; 3] = ["rusqlite", "rusqlite_migration", "deadpool_sqlite"];
const SQL_TEXTS: [&str; 2] = ["SELECT", "INSERT INTO"];
/// The only places with protobuf and HTTP: these crates, and those that begin with one and `_`.
const PROTOCOLS_IN: [&str; 2] = ["src/serve/", CLIENT];
const PROTOCOL_CRATES: [&str; 4] = ["tonic", "prost", "http", "axum"];
/// Where nothing waits.
const NEVER_WAIT: [&str; 2] = ["src/state/", MODEL];
/// The places that read the wall clock: one of the server, one of the client.
const CLOCKS: [&str; 2] = ["src/engine/clock.rs", "crates/client/src/clock.rs"];
const WALL_CLOCKS: [&str; 3] = ["SystemTime", "Timestamp", "Zoned"];
/// More than this and a file holds two things.
const MAX_LINES: usize = 500;

/// Gives what breaks the rule in one file: nothing, if the rule does not concern the file.
type Checker = fn(&File) -> Vec<Violation>;

#[test]
fn imports_point_down_the_layers_only() {
    hold(layers);
}

#[test]
fn the_model_needs_no_runtime_or_protocol_and_the_client_no_server_or_sql() {
    hold(alone);
}

#[test]
fn sql_is_in_the_sqlite_backend_only() {
    hold(sql);
}

#[test]
fn protobuf_and_http_are_in_the_doors_and_the_client_only() {
    hold(protocols);
}

#[test]
fn the_model_and_the_live_state_never_wait() {
    hold(waits);
}

#[test]
fn one_place_of_each_reads_the_wall_clock() {
    hold(wall_clock);
}

#[test]
fn every_file_says_at_its_head_what_it_is() {
    hold(head);
}

#[test]
fn no_file_is_longer_than_500_lines() {
    hold(length);
}

#[test]
fn the_table_of_layers_names_every_module_there_is() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let mut declared: Vec<&str> = declared.chain(["main", "lib"]).collect();
    let mut named: Vec<&str> = MAY_IMPORT.iter().map(|(module, _)| *module).collect();
    declared.sort_unstable();
    named.sort_unstable();
    assert_eq!(named, declared);
}

/// For each checker, files that break its rule: their path, their text, the lines that it must name.
#[rustfmt::skip]
const PLANTED: [(Checker, &str, &str, &[usize]); 36] = [
    (layers, "src/state/batch.rs", "\nuse crate::engine::Error;", &[2]),
    (layers, "src/state/mod.rs", "fn f() {\n    crate::storage::block::MAX_ROWS;\n}", &[2]),
    (layers, "src/storage/mod.rs", "use crate::state;", &[1]),
    (layers, "src/storage/sqlite/tests.rs", "use super::super::super::engine;", &[1]),
    (layers, "src/storage/block_tests.rs", "use super::super::super::state;", &[1]),
    (layers, "src/engine/query.rs", "use crate::{\n    state::State,\n    serve::{Doors, proto},\n};", &[3]),
    (layers, "src/engine/mod.rs", "use super::config::Config;", &[1]),
    (layers, "src/serve/ingest.rs", "use crate::collect::Collector;", &[1]),
    (layers, "src/collect.rs", "pub(crate) use crate::{engine, serve};", &[1]),
    (layers, "src/config.rs", "use crate::app::App;\nuse crate::*;", &[1, 2]),
    (layers, "src/main.rs", "use healthd::storage::Storage;", &[1]),
    (layers, "src/util.rs", "", &[1]),
    (alone, "crates/model/src/time.rs", "use healthd::engine::Clock;", &[1]),
    (alone, "crates/model/Cargo.toml", "[dependencies]\ntokio-util = \"0.7\"", &[2]),
    (alone, "crates/model/Cargo.toml", "[dev-dependencies]\nx = { package = \"tonic\" }", &[2]),
    (alone, "crates/model/Cargo.toml", "[dependencies.rusqlite]\nversion = \"1\"", &[1]),
    (alone, "crates/client/Cargo.toml", "[dependencies]\nhealthd = { path = \"../..\" }", &[2]),
    (alone, "crates/client/src/lib.rs", "use healthd::state;", &[1]),
    (sql, "src/engine/query.rs", "\nuse rusqlite::Connection;", &[2]),
    (sql, "src/storage/memory.rs", "fn f() {\n    run(\"SELECT 1\");\n}", &[2]),
    (sql, "crates/model/src/fold.rs", "const SQL: &str = r#\"\n    INSERT INTO x\"#;", &[1]),
    (protocols, "src/engine/ingest.rs", "use tonic::Status;", &[1]),
    (protocols, "src/app.rs", "fn f() -> http_body::Body {}\nfn g() -> prost_types::Any {}", &[1, 2]),
    (protocols, "src/collect.rs", "use axum;", &[1]),
    (protocols, "crates/model/src/fold.rs", "#[derive(prost::Message)]", &[1]),
    (waits, "src/state/shard.rs", "async fn f() {\n    g().await;\n}", &[1, 2]),
    (waits, "crates/model/src/time.rs", "let f = async { 1 };", &[1]),
    (wall_clock, "src/engine/ingest.rs", "let now = Timestamp::now();", &[1]),
    (wall_clock, "src/serve/mod.rs", "\nlet now = std::time::SystemTime::now();", &[2]),
    (wall_clock, "crates/model/src/time.rs", "jiff::Zoned::now()", &[1]),
    (head, "src/engine/mod.rs", "use crate::state;\n//! Too late.", &[1]),
    (head, "tests/tidy.rs", "// A comment, but not of the file.", &[1]),
    (head, "build.rs", "", &[1]),
    (head, "proto/healthd/v1/types.proto", "syntax = \"proto3\";", &[1]),
    (length, "benches/flush.rs", LONG, &[501]),
    (length, "crates/model/src/fold_tests.rs", LONG, &[501]),
];

/// 512 lines.
const LONG: &str = {
    const LINES: [u8; 512] = [b'\n'; 512];
    match str::from_utf8(&LINES) {
        Ok(lines) => lines,
        Err(_) => unreachable!(),
    }
};

#[test]
fn every_checker_catches_what_breaks_its_rule() {
    for (check, path, text, lines) in PLANTED {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        let found: Vec<usize> = check(&file).iter().map(|violation| violation.line).collect();
        assert_eq!(found, lines, "{path}:\n{text}");
    }
}

/// What looks like a violation and is none.
#[rustfmt::skip]
const INNOCENT: [(Checker, &str, &str); 19] = [
    (layers, "src/state/mod.rs", "//! See crate::engine.\n/* crate::engine */\nuse model::Kind;"),
    (layers, "src/state/mod.rs", "const TEXT: &str = \"crate::engine::\\\"crate::engine::\";"),
    (layers, "src/state/mod.rs", "fn f<'a>(quote: char) -> bool { quote == '\"' || x(\"crate::engine::X\") }"),
    (layers, "src/engine/mod.rs", "use crate::{state::{State, serve}, storage, engine::Clock};"),
    (layers, "src/storage/sqlite/commit.rs", "use super::super::{Error, state};"),
    (layers, "src/storage/block_tests.rs", "use super::super::state;"),
    (layers, "src/collect_tests.rs", "use crate::engine;\nuse super::*;"),
    (layers, "src/main.rs", "use healthd::{app::App, config::Config, engine};"),
    (layers, "tests/socket/main.rs", "use healthd::serve::proto;"),
    (alone, "crates/model/Cargo.toml", "[package]\nname = \"healthd-model\"\n[dependencies]\n# tokio"),
    (alone, "Cargo.toml", "[dependencies]\ntokio = \"1\""),
    (alone, "crates/client/Cargo.toml", "[dependencies]\nmodel = { package = \"healthd-model\" }\ntonic = \"1\""),
    (sql, "src/storage/sqlite/scan.rs", "use rusqlite::Connection;\nconst X: &str = \"SELECT 1\";"),
    (sql, "src/engine/query.rs", "/// As rusqlite does: SELECT 1.\nstruct SELECT;"),
    (protocols, "src/serve/proto.rs", "tonic::include_proto!(\"healthd.v1\");"),
    (protocols, "src/engine/mod.rs", "let http = 1; // tonic::Status\nf(\"http://x\", crate::state::http::X);"),
    (waits, "src/engine/flush.rs", "async fn f() { g().await }"),
    (wall_clock, "src/engine/clock.rs", "jiff::Timestamp::now()"),
    (wall_clock, "src/serve/call.rs", "let now = (Instant::now(), self.engine.now(), Timestamp::from_ms(1));"),
];

#[test]
fn what_only_looks_like_a_violation_passes() {
    for (check, path, text) in INNOCENT {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        let found = check(&file);
        assert!(found.is_empty(), "{}:\n{text}", found[0]);
    }
}

/// Holds the whole project to a rule.
fn hold(check: Checker) {
    let files = project();
    let found: Vec<String> =
        files.iter().flat_map(check).map(|violation| violation.to_string()).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

struct File {
    /// From the project's root on, with slashes.
    path: String,
    text: String,
}

struct Violation {
    path: String,
    line: usize,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

impl File {
    fn extension(&self) -> &str {
        self.path.rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    fn is_rust(&self) -> bool {
        self.extension() == "rs"
    }

    fn is_in(&self, directories: &[&str]) -> bool {
        directories.iter().any(|directory| self.path.starts_with(directory))
    }

    /// Whether it is Rust that becomes part of the service.
    fn is_of_the_service(&self) -> bool {
        self.is_rust() && self.is_in(&["src/", "crates/"])
    }

    fn violation(&self, line: usize, rule: impl Into<String>) -> Violation {
        Violation { path: self.path.clone(), line, rule: rule.into() }
    }
}

fn layers(file: &File) -> Vec<Violation> {
    let Some(path) = file.path.strip_prefix("src/").filter(|_| file.is_rust()) else {
        return Vec::new();
    };
    let first = path.split('/').next().unwrap_or(path).trim_end_matches(".rs");
    let module = first.trim_end_matches("_tests");
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == module) else {
        let rule = format!("{module} has no layer; give it one in src/lib.rs and in tests/tidy.rs");
        return vec![file.violation(1, rule)];
    };
    let tokens = tokens(&file.text);
    let mut imports = imported(&tokens, "crate");
    if module == "main" {
        imports.extend(imported(&tokens, "healthd"));
    }
    // `super` that climbs out of the module names what `crate` would. Inside an inline module it
    // does not climb so far, but there too a layer's name is the layer's.
    let named = imported_above(&tokens, depth(path));
    let is_layer = |name: &str| MAY_IMPORT.iter().any(|(layer, _)| *layer == name);
    imports.extend(named.into_iter().filter(|(_, name)| is_layer(name)));
    imports.sort_unstable();
    let wrong = imports.into_iter().filter(|(_, name)| *name != module && !allowed.contains(name));
    let rule = |name| match allowed {
        [] => format!("{module} imports {name}; it may import nothing above the model"),
        allowed => format!("{module} imports {name}; it may import {}", allowed.join(", ")),
    };
    wrong.map(|(line, name)| file.violation(line, rule(name))).collect()
}

/// How many times `super` leads from a file under src/ to the crate's root.
fn depth(path: &str) -> usize {
    let is_directory = path.ends_with("/mod.rs") || matches!(path, "lib.rs" | "main.rs");
    let parts = path.split('/').count() - usize::from(is_directory);
    // A sibling file of tests is a module inside the one that it tests.
    parts + usize::from(path.ends_with("_tests.rs"))
}

fn alone(file: &File) -> Vec<Violation> {
    let Some((crate_, forbidden)) = NOT_IN.iter().find(|(crate_, _)| file.is_in(&[crate_])) else {
        return Vec::new();
    };
    if file.is_rust() {
        let server = imported(&tokens(&file.text), "healthd");
        let rule = format!("{crate_} imports the server; of ours it may import the model");
        return server.into_iter().map(|(line, _)| file.violation(line, rule.clone())).collect();
    }
    let is_forbidden = |word: &&str| {
        *word != SHARED && forbidden.iter().any(|name| is_or_extends(word, name, '-'))
    };
    let mut in_dependencies = false;
    let mut found = Vec::new();
    for (place, line) in file.text.lines().enumerate().filter(|(_, line)| !line.starts_with('#')) {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        }
        let is_of_word = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
        let mut words = line.split(|c: char| !is_of_word(c));
        if let Some(word) = words.find(is_forbidden).filter(|_| in_dependencies) {
            found.push(file.violation(place + 1, format!("{crate_} depends on {word}")));
        }
    }
    found
}

fn sql(file: &File) -> Vec<Violation> {
    if !file.is_of_the_service() || file.is_in(&[SQL_IN]) {
        return Vec::new();
    }
    let is_sql = |token: &Token<'_>| match token.kind {
        Kind::Word => SQL_CRATES.contains(&token.text),
        Kind::Text => SQL_TEXTS.iter().any(|sql| token.text.contains(sql)),
        Kind::Sign => false,
    };
    let found = tokens(&file.text).into_iter().filter(is_sql);
    found.map(|token| file.violation(token.line, format!("SQL outside {SQL_IN}"))).collect()
}

fn protocols(file: &File) -> Vec<Violation> {
    if !file.is_of_the_service() || file.is_in(&PROTOCOLS_IN) {
        return Vec::new();
    }
    let is_protocol = |word| PROTOCOL_CRATES.iter().any(|name| is_or_extends(word, name, '_'));
    let tokens = tokens(&file.text);
    let found = (0..tokens.len()).filter(|at| {
        let follows = |text| tokens.get(at + 1).is_some_and(|token| token.text == text);
        let used = *at > 0 && tokens[at - 1].text == "use";
        tokens[*at].kind == Kind::Word
            && is_protocol(tokens[*at].text)
            && is_root(&tokens, *at)
            && (used || follows("::"))
    });
    let rule = |at: usize| format!("{} outside {}", tokens[at].text, PROTOCOLS_IN.join(" and "));
    found.map(|at| file.violation(tokens[at].line, rule(at))).collect()
}

/// Whether the word is this name, or begins with it and a joint.
fn is_or_extends(word: &str, name: &str, joint: char) -> bool {
    word.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(joint))
}

fn waits(file: &File) -> Vec<Violation> {
    if !file.is_rust() || !file.is_in(&NEVER_WAIT) {
        return Vec::new();
    }
    let is_wait =
        |token: &Token<'_>| token.kind == Kind::Word && matches!(token.text, "async" | "await");
    let found = tokens(&file.text).into_iter().filter(is_wait);
    found.map(|token| file.violation(token.line, "the model and the state never wait")).collect()
}

fn wall_clock(file: &File) -> Vec<Violation> {
    if !file.is_of_the_service() || CLOCKS.contains(&&*file.path) {
        return Vec::new();
    }
    let tokens = tokens(&file.text);
    let reads = tokens.windows(3).filter(|three| {
        WALL_CLOCKS.contains(&three[0].text) && three[1].text == "::" && three[2].text == "now"
    });
    let rule = format!("the wall clock is read in {} only; take `now`", CLOCKS.join(" and "));
    reads.map(|three| file.violation(three[0].line, rule.as_str())).collect()
}

fn head(file: &File) -> Vec<Violation> {
    let start = match file.extension() {
        "rs" => "//!",
        "proto" => "//",
        _ => return Vec::new(),
    };
    if file.text.starts_with(start) {
        return Vec::new();
    }
    vec![file.violation(1, format!("does not open with {start} and what it is"))]
}

fn length(file: &File) -> Vec<Violation> {
    let lines = file.text.lines().count();
    if !file.is_rust() || lines <= MAX_LINES {
        return Vec::new();
    }
    vec![file.violation(MAX_LINES + 1, format!("{lines} lines; at most {MAX_LINES}: split it"))]
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that the rules speak of.
fn project() -> Vec<File> {
    let mut files = Vec::new();
    for start in ["src", "crates", "tests", "benches", "proto", "build.rs"] {
        read(&root().join(start), &mut files);
    }
    for known in ["src/lib.rs", "crates/model/Cargo.toml", "build.rs", "tests/tidy.rs"] {
        assert!(files.iter().any(|file| file.path == known), "{known} was not found");
    }
    files
}

fn read(path: &Path, files: &mut Vec<File>) {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if path.is_dir() {
        // What is fetched or built is not ours.
        if name.starts_with('.') || matches!(name, "target" | "node_modules") {
            return;
        }
        let entries = fs::read_dir(path).expect("a directory of the project can be read");
        for entry in entries {
            read(&entry.expect("a directory of the project can be read").path(), files);
        }
    } else if [".rs", ".proto", "Cargo.toml"].iter().any(|end| name.ends_with(end)) {
        let inside = path.strip_prefix(root()).expect("the walk starts at the root");
        let parts: Vec<_> = inside.iter().map(|part| part.to_string_lossy()).collect();
        let text = fs::read_to_string(path).expect("a file of the project can be read");
        files.push(File { path: parts.join("/"), text });
    }
}
