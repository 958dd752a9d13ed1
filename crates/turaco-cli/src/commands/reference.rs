//! The reference pages of the documentation, made from the declarations of options, variables and exit codes.

use clap::{Arg, Command};

use crate::env;
use crate::exit::Exit;

const MADE_FROM: &str = "<!-- Made by `turaco man --markdown docs/reference`; a test compares it with the program. -->\n\n";

/// File names and texts.
pub fn pages(root: &Command) -> Vec<(String, String)> {
    vec![
        ("cli.md".into(), commands(root)),
        ("environment.md".into(), environment()),
        ("exit-codes.md".into(), exit_codes()),
    ]
}

fn commands(root: &Command) -> String {
    let mut text = format!("# Command line\n\n{MADE_FROM}");
    text.push_str(
        "Options may be written with underscores (`--output_format`); a switch takes `=true` or `=false`.\n\n",
    );
    text.push_str("## Global options\n\n");
    table(
        &mut text,
        root.get_arguments().filter(|arg| arg.is_global_set()),
    );
    for command in root.get_subcommands() {
        section(&mut text, command, root, 2);
    }
    text
}

fn section(text: &mut String, command: &Command, root: &Command, depth: usize) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    text.push_str(&format!("\n{} {name}\n\n", "#".repeat(depth)));
    if let Some(about) = command.get_about() {
        text.push_str(&format!("{about}.\n\n"));
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_string();
    text.push_str(&format!("```\n{}\n```\n", usage.trim_end()));
    let own: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| !arg.is_global_set() || is_other(arg, root))
        .filter(|arg| !arg.is_hide_set())
        .filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
        .collect();
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in &own {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        text.push('\n');
        if let Some(heading) = heading {
            text.push_str(&format!("**{heading}**\n\n"));
        }
        let args = own.iter().copied();
        table(text, args.filter(|arg| arg.get_help_heading() == heading));
    }
    for subcommand in command.get_subcommands() {
        section(text, subcommand, root, depth + 1);
    }
}

/// Whether an option of all commands is something else here.
fn is_other(arg: &Arg, root: &Command) -> bool {
    let of_all = |known: &&Arg| known.get_id() == arg.get_id();
    let of_all = root.get_arguments().find(of_all);
    let help = |arg: &Arg| arg.get_help().map(ToString::to_string);
    of_all.is_some_and(|known| help(known) != help(arg))
}

fn table<'a>(text: &mut String, args: impl Iterator<Item = &'a Arg>) {
    text.push_str("| option | default | meaning |\n| --- | --- | --- |\n");
    for arg in args {
        let mut meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let mut default: Vec<String> = arg
            .get_default_values()
            .iter()
            .map(|value| value.to_string_lossy().into_owned())
            .collect();
        if let Some((rest, described)) = meaning.clone().rsplit_once(" [default: ") {
            default = vec![described.trim_end_matches(']').to_string()];
            meaning = rest.to_string();
        }
        let values: Vec<String> = arg
            .get_possible_values()
            .iter()
            .filter(|_| arg.get_action().takes_values() && !arg.is_require_equals_set())
            .filter(|_| !arg.is_hide_possible_values_set())
            .map(|value| value.get_name().to_string())
            .collect();
        if !values.is_empty() {
            meaning.push_str(&format!(": {}", values.join(", ")));
        }
        if let Some(variable) = arg.get_env() {
            meaning.push_str(&format!(" (`{}`)", variable.to_string_lossy()));
        }
        text.push_str(&format!(
            "| {} | {} | {} |\n",
            code(&spelling(arg)),
            default
                .first()
                .filter(|value| !value.is_empty())
                .map(|value| code(value))
                .unwrap_or_default(),
            meaning.replace('|', "\\|").replace('<', "&lt;")
        ));
    }
}

fn spelling(arg: &Arg) -> String {
    let values: Vec<&str> = arg
        .get_value_names()
        .unwrap_or_default()
        .iter()
        .map(|name| name.as_str())
        .collect();
    let value = values.join(" ");
    let short = arg.get_short().map(|short| format!("-{short}, "));
    match arg.get_long() {
        None => format!("<{value}>"),
        Some(long) => {
            let option = format!("{}--{long}", short.unwrap_or_default());
            if arg.is_require_equals_set() || !arg.get_action().takes_values() {
                option
            } else {
                format!("{option} {value}")
            }
        }
    }
}

fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

fn environment() -> String {
    let mut text = format!("# Environment\n\n{MADE_FROM}");
    text.push_str(
        "Precedence: command line, then environment, then config file (`--config FILE`, else \
         `$XDG_CONFIG_HOME/turaco/config.toml`), then default. A variable that is set to nothing counts as not set.\n",
    );
    for group in env::GROUPS {
        text.push_str(&format!(
            "\n## {}\n\n| variable | meaning |\n| --- | --- |\n",
            group.title
        ));
        for variable in group.variables {
            text.push_str(&format!("| `{}` | {} |\n", variable.name, variable.meaning));
        }
    }
    text
}

fn exit_codes() -> String {
    let mut text = format!("# Exit codes\n\n{MADE_FROM}| code | meaning |\n| --- | --- |\n");
    for exit in Exit::ALL {
        text.push_str(&format!("| {} | {} |\n", exit.code(), exit.meaning()));
    }
    text
}
