//! The operating system's chance and clock, taken over. Hash tables of the libraries draw their keys from the one, and with them
//! the order in which they do things; HTTP/2 forgets streams by the other, and a slow machine would have it forget more.
//!
//! # Limits
//! Linux. It works by symbols of libc's names in the program, which every program that links this crate gets.
#![expect(unsafe_code, reason = "it takes the place of C functions")]
use std::cell::Cell;
use std::ffi::{c_int, c_long, c_uint, c_void};

use crate::chance::mix;

thread_local! {
    /// Absent on threads of no simulation: they get the system's own.
    static SEED: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
}

const SYS_GETRANDOM: c_long = if cfg!(target_arch = "aarch64") { 278 } else { 318 };
const SYS_CLOCK_GETTIME: c_long = if cfg!(target_arch = "aarch64") { 113 } else { 228 };

/// What libc calls `struct timespec`, where both are 64 bits wide.
#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// From here on whatever this thread asks the system's chance for comes from `seed`, and the system's clocks stand still for it.
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

/// Takes the place of libc's function: what a clock shows.
///
/// # Safety
/// As there: `shown` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, shown: *mut Timespec) -> c_int {
    if SEED.get().is_none() {
        // SAFETY: the caller's pointer goes on as it is.
        return unsafe { syscall(SYS_CLOCK_GETTIME, clock, shown) as c_int };
    }
    // SAFETY: the caller says so.
    unsafe { shown.write(Timespec { seconds: 1_800_000_000, nanoseconds: 0 }) };
    0
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

    #[test]
    #[expect(clippy::disallowed_methods, reason = "it is the machine's clock that is looked at")]
    fn the_machines_clock_stands_still_for_a_seeded_thread_only() {
        let clock = || (std::time::SystemTime::now(), std::time::Instant::now());
        let thread = std::thread::spawn(move || {
            super::seed(1);
            let before = clock();
            std::thread::yield_now();
            (before, clock())
        });
        let (before, after) = thread.join().unwrap();
        assert_eq!(before, after);
        let before = clock();
        assert!((0..1_000_000).any(|_| clock().1 > before.1));
    }
}
