//! `turaco man [DIR]`.

use std::path::PathBuf;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::{Context, reference};
use crate::args::{self, ManArgs};
use crate::env;
use crate::exit::{Exit, Failure, Outcome};
use crate::files;

/// Print the main page, or write all of them.
pub fn run(args: &ManArgs, context: &Context) -> Outcome {
    let mut root = args::shown_command();
    root.build();
    let Some(folder) = &args.dir else {
        context.printer.result(&page(&root)?)?;
        return Ok(Exit::Success);
    };
    files::create_folder(folder)?;
    let mut pages = Vec::new();
    if args.markdown {
        for (name, text) in reference::pages(&root) {
            pages.push((folder.join(name), text.into_bytes()));
        }
    } else {
        collect(&root, folder, &mut pages)?;
    }
    files::write_all(&pages)?;
    Ok(Exit::Success)
}

fn collect(
    command: &Command,
    folder: &std::path::Path,
    pages: &mut Vec<(PathBuf, Vec<u8>)>,
) -> Result<(), Failure> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    pages.push((folder.join(format!("{name}.1")), page(command)?));
    for subcommand in command.get_subcommands() {
        collect(subcommand, folder, pages)?;
    }
    Ok(())
}

fn page(command: &Command) -> Result<Vec<u8>, Failure> {
    let name = command
        .get_display_name()
        .unwrap_or_else(|| command.get_name());
    let man = Man::new(command.clone())
        .title(name)
        .source(format!("turaco {}", env!("CARGO_PKG_VERSION")))
        .manual("Turaco manual");
    let mut page = Vec::new();
    let write = |page: &mut Vec<u8>| -> std::io::Result<()> {
        man.render(page)?;
        let mut roff = Roff::new();
        roff.control("SH", ["EXIT STATUS"]);
        for exit in Exit::ALL {
            roff.control("TP", []);
            roff.text([roman(exit.code().to_string())]);
            roff.text([roman(exit.meaning())]);
        }
        if !command.is_subcommand_required_set() && command.get_name() != "turaco" {
            return roff.to_writer(page);
        }
        roff.control("SH", ["ENVIRONMENT"]);
        for variable in env::GROUPS.iter().flat_map(|group| group.variables) {
            roff.control("TP", []);
            roff.text([roman(variable.name)]);
            roff.text([roman(variable.meaning)]);
        }
        roff.to_writer(page)
    };
    write(&mut page)
        .map_err(|error| Failure::write(std::path::Path::new("manual page"), &error))?;
    Ok(page)
}
