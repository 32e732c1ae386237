//! `hpfeeds-broker completions` and `man`: the shell's completion script and the manual pages, made of the arguments.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use super::mailbox::print;

/// Print a script that completes these arguments in a shell
///
/// For bash: hpfeeds-broker completions bash > ~/.local/share/bash-completion/completions/hpfeeds-broker
#[derive(Debug, Args)]
pub(crate) struct CompletionsCommand {
    /// The shell
    shell: Shell,
}

impl CompletionsCommand {
    pub(crate) fn run(&self, mut program: Command) -> Result<(), String> {
        // Into memory first: the generator panics when it cannot write.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, "hpfeeds-broker", &mut script);
        print(&String::from_utf8_lossy(&script))
    }
}

/// Write the manual pages of this program and its subcommands into a folder
#[derive(Debug, Args)]
#[command(arg_required_else_help = false)]
pub(crate) struct ManCommand {
    /// The folder, which must exist
    folder: PathBuf,
}

impl ManCommand {
    pub(crate) fn run(&self, program: Command) -> Result<(), String> {
        clap_mangen::generate_to(program, &self.folder)
            .map_err(|cause| format!("cannot write manual pages into {}: {cause}", self.folder.display()))
    }
}
