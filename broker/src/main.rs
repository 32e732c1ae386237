//! The program `hpfeeds-broker`.

use std::process::ExitCode;

fn main() -> ExitCode {
    hpfeeds_broker::cli::main()
}
