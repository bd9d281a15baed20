//! What every exported function goes through: panics are caught, failures remembered for `pita_last_error`.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};

use crate::error::{Error, PITA_OK, Result, pita_status_t};
use crate::panics;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs the body of an exported function and turns its result into a status.
pub fn guard(body: impl FnOnce() -> Result<()>) -> pita_status_t {
    match panics::contain(body).and_then(|result| result) {
        Ok(()) => PITA_OK,
        Err(error) => {
            remember(&error);
            error.status()
        }
    }
}

fn remember(error: &Error) {
    let text = CString::new(error.message.replace('\0', "\\0")).unwrap_or_default();
    // Without a slot (the thread is ending) or with the slot in use there is nobody to read the message.
    let _ = LAST_ERROR.try_with(|last| last.try_borrow_mut().map(|mut last| *last = text));
}

/// This thread's last failure; valid until its next one.
pub fn last_error() -> *const c_char {
    const NONE: &CStr = c"";
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(NONE.as_ptr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{PITA_ERR_INVALID_ARGUMENT, PITA_ERR_PANIC};

    fn last() -> String {
        // SAFETY: last_error never returns NULL, and the message lives until this thread's next failure.
        unsafe { CStr::from_ptr(last_error()) }.to_str().unwrap().to_string()
    }

    #[test]
    fn a_panic_becomes_a_status() {
        assert_eq!(guard(|| panic!("index {} of {}", 3, 2)), PITA_ERR_PANIC);
        assert_eq!(last(), "a bug in pita-redis: index 3 of 2");
    }

    #[test]
    fn a_failure_is_remembered_by_its_thread_alone() {
        assert_eq!(guard(|| Err(Error::invalid("a \0 in it"))), PITA_ERR_INVALID_ARGUMENT);
        assert_eq!(guard(|| Ok(())), PITA_OK);
        assert_eq!(last(), "a \\0 in it");
        std::thread::spawn(|| assert_eq!(last(), "")).join().unwrap();
    }
}
