//! The committed header is the one that the sources make.

use std::path::Path;

/// `make header` runs this test with PITA_BLESS=1, which writes the header instead of comparing it.
#[test]
fn header_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("include/pita_redis.h");
    let mut made = Vec::new();
    cbindgen::generate(root).expect("cbindgen makes the header").write(&mut made);
    if std::env::var_os("PITA_BLESS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read(&path).unwrap();
    assert!(made == committed, "include/pita_redis.h has drifted from src/capi: run `make header`");
}

/// A macro without the prefix would get in the way of somebody's code.
#[test]
fn every_macro_has_the_prefix() {
    let header = include_str!("../include/pita_redis.h");
    for line in header.lines().filter(|line| line.starts_with("#define ")) {
        assert!(line.starts_with("#define PITA_"), "{line}");
    }
}
