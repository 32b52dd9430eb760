//! The program that fuzzes one target (built with the engine, by `tests/fuzz/run`), or that puts single inputs to it
//! (built without): `obleth-fuzz TARGET FILE…`, for a debugger or a backtrace.

#![cfg_attr(feature = "libfuzzer", no_main)]

#[cfg(feature = "libfuzzer")]
mod engine {
    //! The entry that the engine calls. Its own main reads the command line, so the target's name is a variable.

    use std::{env, sync::OnceLock};

    static CHECK: OnceLock<fn(&[u8])> = OnceLock::new();

    fn chosen() -> fn(&[u8]) {
        let name = env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
        obleth_fuzz::find(&name).unwrap_or_else(|| panic!("there is no target {name}"))
    }

    libfuzzer_sys::fuzz_target!(|bytes: &[u8]| CHECK.get_or_init(chosen)(bytes));
}

#[cfg(not(feature = "libfuzzer"))]
fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().expect("usage: obleth-fuzz TARGET FILE...");
    let check = obleth_fuzz::find(&name).unwrap_or_else(|| panic!("there is no target {name}"));
    for file in arguments {
        check(&std::fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}")));
    }
}
