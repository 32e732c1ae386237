#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hpfeeds_fuzz::hello::run(bytes));
