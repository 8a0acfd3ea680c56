//! The short form of `make torture`: faults of each kind for some seconds, and runs that lack a protection each, in
//! which the checker must find something.

use std::process::Command;

#[test]
fn violations_are_found_only_with_a_protection_disabled() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_tagcache-torture"));
    let seed = std::env::var("TAGCACHE_SEED").unwrap_or_else(|_| "1".to_owned());
    let output = program
        .args(["--short", "--seed", &seed])
        .output()
        .expect("the program starts");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{stdout}");
    assert!(output.status.success(), "{errors}");
}
