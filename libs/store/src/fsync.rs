//! Counts the fsyncs of the embedded store.
//!
//! # Problem
//! "Every answer is on the disk" cannot be seen from outside: a killed process loses nothing that it handed to the
//! operating system, so a store that never syncs passes every crash test but the power cut.
//!
//! # Pattern
//! Count the effect instead of waiting for the accident: N answered commits must have cost at least N fsyncs.
//!
//! # Here
//! SQLite reaches the disk through a table of functions, the VFS. `register` adds a copy of the default one whose files
//! differ in a single function: `xSync` counts, then does what it always did. Everything else stays SQLite's own code.
//!
//! # Limits
//! It counts what is asked of the operating system, not what the disk does; and for the whole process, not per file.
#![expect(unsafe_code, reason = "a VFS is a table of C functions")]

use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rusqlite::ffi;

static FSYNCS: AtomicU64 = AtomicU64::new(0);
static DEFAULT: AtomicPtr<ffi::sqlite3_vfs> = AtomicPtr::new(std::ptr::null_mut());

/// The name under which connections ask for it.
pub(crate) const NAME: &CStr = c"counts-fsyncs";

/// How often this process has asked for an fsync of a file of an embedded store.
#[must_use]
pub fn fsyncs() -> u64 {
    FSYNCS.load(Ordering::Relaxed)
}

/// Makes [`NAME`] known to SQLite, once.
///
/// # Errors
/// A sentence, if SQLite has no way to reach a disk here.
pub(crate) fn register() -> Result<(), String> {
    static REGISTERED: OnceLock<bool> = OnceLock::new();
    // SAFETY: the default VFS lives as long as the process. Its copy is leaked and so does, too; SQLite may change
    // only the copy's link to the next one, under its own lock.
    let registered = REGISTERED.get_or_init(|| unsafe {
        let default = ffi::sqlite3_vfs_find(std::ptr::null());
        if default.is_null() {
            return false;
        }
        DEFAULT.store(default, Ordering::Release);
        let copy =
            ffi::sqlite3_vfs { zName: NAME.as_ptr(), xOpen: Some(open), pNext: std::ptr::null_mut(), ..*default };
        ffi::sqlite3_vfs_register(Box::leak(Box::new(copy)), 0) == ffi::SQLITE_OK
    });
    registered.then_some(()).ok_or_else(|| "SQLite has no way to reach a disk here".into())
}

/// The functions of an open file; `methods` comes first, so that a pointer to it is one to the whole.
#[repr(C)]
struct Methods {
    methods: ffi::sqlite3_io_methods,
    original: *const ffi::sqlite3_io_methods,
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: the arguments are SQLite's and go on as they are, with the default VFS that they are meant for. Whatever
    // functions it gives the file are static, as SQLite's documentation demands.
    unsafe {
        let default = DEFAULT.load(Ordering::Acquire);
        let Some(real) = (*default).xOpen else { return ffi::SQLITE_ERROR };
        let code = real(default, name, file, flags, out);
        // Danger: also after a failure; where functions are set, SQLite closes the file through them.
        if !(*file).pMethods.is_null() {
            (*file).pMethods = counting((*file).pMethods);
        }
        code
    }
}

/// The counting form of `original`; made once for each of the few kinds of files.
///
/// # Safety
/// `original` lives as long as the process.
unsafe fn counting(original: *const ffi::sqlite3_io_methods) -> *const ffi::sqlite3_io_methods {
    static MADE: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, known)) = made.iter().find(|(from, _)| *from == original.addr()) {
        return std::ptr::with_exposed_provenance(*known);
    }
    // SAFETY: the caller's promise. The copy is leaked.
    let methods = ffi::sqlite3_io_methods { xSync: Some(sync), ..unsafe { *original } };
    let copy: *const Methods = Box::leak(Box::new(Methods { methods, original }));
    made.push((original.addr(), copy.expose_provenance()));
    copy.cast()
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    FSYNCS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: only `counting` hands out this function, inside a `Methods`; so that is what the file points to.
    unsafe {
        let methods = (*file).pMethods.cast::<Methods>();
        let Some(real) = (*(*methods).original).xSync else { return ffi::SQLITE_ERROR };
        real(file, flags)
    }
}
