//! Bytes as a URL: it is understood or refused, and what is refused never shows a password.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use pita_redis::redis::Config;

const SECRET: &str = "hunter2hunter2";

// Text: what stands before the secret in the password, and behind it, and what follows the host, split by spaces.
fuzz_target!(|text: &str| -> Corpus {
    let _ = Config::from_url(text);
    let mut parts = text.splitn(3, ' ');
    let mut next = || parts.next().unwrap_or("");
    let (before, behind, rest) = (next(), next(), next());
    if text.contains(SECRET) {
        return Corpus::Reject;
    }
    let message = match Config::from_url(&format!("redis://user:{before}{SECRET}{behind}@host{rest}")) {
        Ok(config) => config.to_string(),
        Err(error) => error.message,
    };
    assert!(!message.contains(SECRET), "{message}");
    Corpus::Keep
});
