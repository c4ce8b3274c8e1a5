//! `pgportage`: see the library for what it does.

use std::process::ExitCode;

use clap::Parser;
use pgportage::arguments::Arguments;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let exit = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(pgportage::run(arguments)),
        Err(error) => pgportage::no_runtime(&error),
    };
    exit.into()
}
