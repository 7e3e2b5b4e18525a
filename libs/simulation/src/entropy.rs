//! The operating system's chance, taken over: hash tables of the libraries draw their keys from it, and with them the order in
//! which they do things.
//!
//! # Limits
//! Linux. It works by a symbol of libc's name in the program, which every program that links this crate gets.
#![expect(unsafe_code, reason = "it takes the place of a C function")]
use std::cell::Cell;
use std::ffi::{c_long, c_uint, c_void};

use crate::chance::mix;

thread_local! {
    /// Absent on threads of no simulation: they get the system's own.
    static SEED: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

const SYS_GETRANDOM: c_long = if cfg!(target_arch = "aarch64") { 278 } else { 318 };

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// From here on whatever this thread asks the system's chance for comes from `seed`.
pub fn seed(seed: u64) {
    SEED.set(Some((seed, 0)));
}

/// Takes the place of libc's function: fills `buffer` with `length` bytes of chance.
///
/// # Safety
/// As there: the buffer has that length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    let Some((seed, mut drawn)) = SEED.get() else {
        // SAFETY: the caller's buffer and flags go on as they are.
        return unsafe { syscall(SYS_GETRANDOM, buffer, length, flags) as isize };
    };
    // SAFETY: the caller says so.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        drawn += 1;
        chunk.copy_from_slice(&mix(&[seed, drawn]).to_le_bytes()[..chunk.len()]);
    }
    SEED.set(Some((seed, drawn)));
    length.cast_signed()
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, RandomState};

    #[test]
    fn hash_tables_of_a_seeded_thread_are_the_same_every_time() {
        let keys = |seed| {
            let thread = std::thread::spawn(move || {
                super::seed(seed);
                RandomState::new().hash_one(7)
            });
            thread.join().unwrap()
        };
        assert_eq!(keys(1), keys(1));
        assert_ne!(keys(1), keys(2));
    }
}
