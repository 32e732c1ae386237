//! `hpfeeds man`: the manual pages, made of the arguments.

use clap::CommandFactory as _;

use crate::{
    args::{Cli, ManArgs},
    exit::Failure,
};

pub(crate) fn run(args: &ManArgs) -> Result<(), Failure> {
    clap_mangen::generate_to(Cli::command(), &args.folder)
        .map_err(|cause| Failure::new(format!("cannot write manual pages into {}: {cause}", args.folder.display())))
}
