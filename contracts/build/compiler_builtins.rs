//! What LLVM may call without being asked: memory functions, as Solana's syscalls. Nothing else of the real
//! compiler_builtins exists, so 128-bit multiplication and floats fail at link time instead of costing thousands of
//! compute units at run time.
#![feature(compiler_builtins, linkage)]
#![compiler_builtins]
#![no_std]
#![no_builtins]

extern "C" {
    fn sol_memcpy_(destination: *mut u8, source: *const u8, length: u64);
    fn sol_memmove_(destination: *mut u8, source: *const u8, length: u64);
    fn sol_memset_(destination: *mut u8, value: u8, length: u64);
    fn sol_memcmp_(left: *const u8, right: *const u8, length: u64, result: *mut i32);
}

#[no_mangle]
#[linkage = "weak"]
pub unsafe extern "C" fn memcpy(destination: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    unsafe { sol_memcpy_(destination, source, length as u64) };
    destination
}

#[no_mangle]
#[linkage = "weak"]
pub unsafe extern "C" fn memmove(destination: *mut u8, source: *const u8, length: usize) -> *mut u8 {
    unsafe { sol_memmove_(destination, source, length as u64) };
    destination
}

#[no_mangle]
#[linkage = "weak"]
pub unsafe extern "C" fn memset(destination: *mut u8, value: i32, length: usize) -> *mut u8 {
    unsafe { sol_memset_(destination, value as u8, length as u64) };
    destination
}

#[no_mangle]
#[linkage = "weak"]
pub unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    let mut result = 0i32;
    unsafe { sol_memcmp_(left, right, length as u64, &mut result) };
    result
}

#[no_mangle]
#[linkage = "weak"]
pub unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, length: usize) -> i32 {
    unsafe { memcmp(left, right, length) }
}
