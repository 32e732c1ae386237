//! `hpfeeds completions`: the script with which a shell completes our arguments.

use std::io::{self, Write as _};

use clap::CommandFactory as _;

use crate::{
    args::{Cli, CompletionsArgs},
    exit::Failure,
};

pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    // Into memory first: the generator panics when it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hpfeeds", &mut script);
    match io::stdout().write_all(&script) {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to stdout: {cause}")))
        }
        _ => Ok(()),
    }
}
