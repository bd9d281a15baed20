//! The shared library as a linker sees it: what it exports, its name, and what it needs.

use std::path::PathBuf;
use std::process::Command;

/// The library that cargo built for this test lies beside the test. `cargo test` leaves it in `deps`, nowhere else.
fn library() -> PathBuf {
    let path = std::env::current_exe().unwrap().with_file_name("libpita_redis.so");
    assert!(path.exists(), "{} was not built", path.display());
    path
}

/// What a program of binutils prints about the library.
fn ask(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).arg(library()).env("LC_ALL", "C").output();
    let output = output.unwrap_or_else(|error| panic!("{program} (of binutils): {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The values of the dynamic section's entries with this tag: `NEEDED` gives `libc.so.6` and more.
fn dynamic(tag: &str) -> Vec<String> {
    let tag = format!("({tag})");
    let listing = ask("readelf", &["--dynamic", "--wide"]);
    let entries = listing.lines().filter(|line| line.split_whitespace().nth(1) == Some(&tag));
    // A name is in brackets, flags follow a colon.
    let value = |line: &str| line.rsplit(['[', ':']).next().unwrap().trim().trim_end_matches(']').to_owned();
    entries.map(value).collect()
}

/// `make header` runs this test with PITA_BLESS=1, which writes the list instead of comparing it.
#[test]
fn exports_only_the_listed_symbols() {
    let listing = ask("nm", &["--dynamic", "--defined-only", "--format=posix"]);
    let mut symbols: Vec<&str> = listing.lines().map(|line| line.split(' ').next().unwrap()).collect();
    symbols.sort_unstable();
    for symbol in &symbols {
        assert!(symbol.starts_with("pita_"), "{symbol} is exported");
    }
    let made = symbols.join("\n") + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/symbols.txt");
    if std::env::var_os("PITA_BLESS").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap();
    assert_eq!(made, committed, "the exported symbols are not those of tests/symbols.txt: run `make header`");
}

#[test]
fn has_the_soname_of_its_abi() {
    assert_eq!(dynamic("SONAME"), ["libpita_redis.so.0"]);
}

#[test]
fn stays_loaded_after_dlclose() {
    let flags = dynamic("FLAGS_1").concat();
    assert!(flags.split_whitespace().any(|flag| flag == "NODELETE"), "FLAGS_1: {flags}");
}

#[test]
fn needs_only_the_c_library() {
    for needed in dynamic("NEEDED") {
        let known = ["libc.so.", "libm.so.", "libgcc_s.so.", "ld-linux"].iter().any(|name| needed.starts_with(name));
        assert!(known, "{needed} is needed");
    }
}
